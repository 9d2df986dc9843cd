"""Several resolutions: rows of each, a checkpoint in tiles where pictures are not of its size."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import flowmo
from flowmo.cli.app import app
from flowmo.model.inference import InferenceModel
from flowmo.training.data.pictures import PictureList
from flowmo.training.evaluation import (
    CheckpointMethod,
    EvaluationError,
    TiledCheckpointMethod,
    checkpoint_methods,
    evaluate_resolutions,
)


def test_pictures_of_another_size_are_made_as_the_library_makes_them(
    micro: InferenceModel, pictures: Path
) -> None:
    (at_home,) = checkpoint_methods(micro, [micro.config.sampler], side=32)
    assert isinstance(at_home, CheckpointMethod)
    (method,) = checkpoint_methods(micro, [micro.config.sampler], side=48, overlap=0.25)
    assert isinstance(method, TiledCheckpointMethod)
    square = PictureList([str(pictures)], 48).square(0)
    (came,) = method.reconstruct([square], [5])
    assert came is not None
    assert (came.size, method.token_bytes(48)) == (4 * micro.config.payload_bytes,) * 2
    library = flowmo.Tokenizer(micro).reconstruct(square, overlap=0.25, seeds=5, output="array")
    assert np.abs(came.pixels.astype(int) - library).max() <= 1
    assert method.describe()["overlap"] == 8


def test_the_command_makes_rows_of_each_resolution(
    micro_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    common = ["evaluate", str(micro_checkpoint), f"--data={pictures}", "--limit=3", "--shown=0"]
    common += ["--lpips=none", "--inception=none", "--vgg=none", "-a", "mean-colour"]
    out = tmp_path / "both"
    done = CliRunner().invoke(app, [*common, f"--out={out}", "--resolution=32,48"])
    assert done.exit_code == 0, done.output
    assert "48 x 48 pixels" in done.stdout
    table = json.loads((out / "resolutions.json").read_text())["resolutions"]
    own, larger = table["32"]["flowmo"], table["48"]["flowmo"]
    assert list(own) == ["rfid", "psnr", "ssim", "lpips", "bytes", "bits_a_pixel"]
    assert larger["bytes"] == 4 * own["bytes"]
    assert larger["bits_a_pixel"] == pytest.approx(8 * larger["bytes"] / 48**2)
    assert min(own["psnr"], larger["psnr"]) > 0
    assert min(own["ssim"], larger["ssim"]) > 0
    assert own["rfid"] is None  # its network was left out
    # At the model's own size they are the figures of an evaluation without the option.
    done = CliRunner().invoke(app, [*common, f"--out={tmp_path / 'own'}"])
    assert done.exit_code == 0, done.output
    plain = json.loads((tmp_path / "own" / "report.json").read_text())["methods"]["flowmo"]
    assert (plain["psnr"], plain["ssim"]) == pytest.approx((own["psnr"], own["ssim"]), rel=1e-5)


def test_resolutions_that_make_no_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="at least 16, each once, .* got 256,256"):
        evaluate_resolutions(lambda side, folder: None, [256, 256], tmp_path)
