"""Sweeps over samplers: combinations, real reconstructions, and the checkpoint's own sampler."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.errors import DataError
from flowmo.training.evaluation.sweep import Point, best, set_default, settings, sweep

TINY = Path(__file__).resolve().parents[3] / "checkpoints" / "tiny"
BASE = SamplerConfig(steps=4, guidance=1.0)


def point(forwards: int, psnr: float) -> Point:
    return Point(sampler=BASE, forwards=forwards, psnr=psnr, ssim=0.5)


def test_settings_are_all_combinations_of_what_is_given() -> None:
    found = settings(BASE, steps=[1, 2], guidance=[1.0, 1.5], rho=[0.5])
    assert [(s.steps, s.guidance, s.rho) for s in found] == [
        (1, 1.0, 0.5),
        (1, 1.5, 0.5),
        (2, 1.0, 0.5),
        (2, 1.5, 0.5),
    ]
    assert settings(BASE) == [BASE]
    explicit = SamplerConfig(schedule="explicit", times=(1.0, 0.4, 0.0))
    assert settings(explicit, guidance=[1.0, 2.0]) == [
        replace(explicit, guidance=1.0),
        replace(explicit, guidance=2.0),
    ]
    assert [(s.schedule, s.steps) for s in settings(explicit, steps=[3])] == [("power", 3)]
    with pytest.raises(ConfigError, match="guidance must be at least 0"):
        settings(BASE, guidance=[-1.0])


def test_the_best_is_of_those_that_are_cheap_enough() -> None:
    points = [point(1, 18.0), point(4, 20.0), point(8, 20.0), point(25, 20.5)]
    assert best(points).forwards == 25
    assert best(points, most_forwards=8).forwards == 4
    with pytest.raises(DataError, match="at most 0 forwards; the least is 1"):
        best(points, most_forwards=0)


def test_the_best_may_be_what_looks_best() -> None:
    soft, sharp = replace(point(1, 22.0), distance=0.5), replace(point(4, 20.0), distance=0.3)
    assert best([soft, sharp]) == soft
    assert best([soft, sharp], by="distance") == sharp
    assert best([soft, sharp], by="distance", most_forwards=1) == soft


def test_images_are_squares_taken_evenly(tmp_path: Path) -> None:
    for number in range(10):
        level = np.full((20, 30, 3), 20 * number, np.uint8)
        Image.fromarray(level).save(tmp_path / f"{number}.png")
    found = held_out_pictures([str(tmp_path)], 16, limit=4)
    assert [picture.shape for picture in found] == [(16, 16, 3)] * 4
    assert [int(picture[0, 0, 0]) for picture in found] == [0, 60, 120, 180]
    assert len(held_out_pictures([], 16, limit=1)) == 6  # the held-out photographs, all of them


def test_the_demo_models_figures_come_again() -> None:
    model = InferenceModel(FlowMo.from_pretrained(str(TINY)))
    images = held_out_pictures([], model.config.image_size, limit=6)
    one, four, again = sweep(model, images, settings(BASE, steps=[1, 4, 4]), batch=4)
    assert (one.forwards, four.forwards) == (1, 4)
    assert four == again
    # As the committed report of benchmarks.reconstruction has it, up to the noise drawn.
    assert four.psnr == pytest.approx(21.2, abs=0.3)
    assert four.ssim == pytest.approx(0.57, abs=0.02)
    # One step gives the mean of all pictures that may have been meant, which PSNR likes.
    assert one.psnr > four.psnr


def test_a_default_is_set_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(TINY, folder)
    result = CliRunner().invoke(
        app,
        [
            *("sweep", str(folder), "--steps=1,2", f"--out={tmp_path / 's'}", "--set-default=2"),
            *("--perceptual=efficientnet-lite0", "--weights=random"),
        ],
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["perceptual"] == "efficientnet-lite0"
    assert "efficientnet-lite0" in result.stdout.splitlines()[0]
    wanted = min(report["points"], key=lambda p: p["distance"])["sampler"]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    before, after = FlowMo.from_pretrained(str(TINY)), FlowMo.from_pretrained(str(folder))
    assert after.config.sampler.to_dict() == wanted
    assert replace(after.config, sampler=before.config.sampler) == before.config
    assert after.fingerprint() == before.fingerprint()
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )
    assert not list(folder.glob(".*"))


def test_guidance_intervals_are_swept(tmp_path: Path) -> None:
    command = ["sweep", str(TINY), "--steps=4", "--guidance=1.5", "--interval=0.17:1.02, 0:100"]
    result = CliRunner().invoke(app, [*command, f"--out={tmp_path / 's'}"])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "s.json").read_text())
    found = [(p["sampler"]["guidance_interval"], p["forwards"]) for p in report["points"]]
    # Of the times 1, 0.32, 0.06, 0.004 only the second is in (0.145, 0.505); all but the first
    # in (0, 0.99).
    assert found == [([0.17, 1.02], 5), ([0.0, 100.0], 7)]
    assert "0.17:1.02" in result.stdout


def test_errors_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a checkpoint folder"):
        set_default(tmp_path, BASE)
    result = CliRunner().invoke(app, ["sweep", str(TINY), "--steps", "one"])
    assert (result.exit_code, "--steps takes numbers as 1,2,4" in result.stderr) == (1, True)
    for text in ("0.5", "1:2:3", "a:b"):
        result = CliRunner().invoke(app, ["sweep", str(TINY), "--interval", text])
        assert (result.exit_code, "--interval takes intervals" in result.stderr) == (1, True)
    result = CliRunner().invoke(app, ["sweep", str(TINY), "--interval", "2:1"])
    assert (result.exit_code, "must be 0 <= low <= high" in result.stderr) == (1, True)
    bad = CliRunner().invoke(app, ["sweep", str(TINY), "--rank=perceptual"])
    assert (bad.exit_code, "with a --perceptual network" in bad.stderr) == (2, True)
    hub = CliRunner().invoke(app, ["sweep", "someone/model", "--set-default", "4"])
    assert hub.exit_code == 2
