"""``flowmo train``: what it makes of its arguments, and its exit statuses."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flowmo.cli import app
from flowmo.model.flowmo import FlowMo
from flowmo.training.config import TrainConfig
from flowmo.training.recipes import recipe

_SMALL = (
    "model.image_size=16", "model.patch_size=4", "model.code_length=4",
    "model.encoder.width=32", "model.encoder.heads=2", "model.encoder.depth=1",
    "model.decoder.width=32", "model.decoder.heads=2", "model.decoder.depth=1",
    "model.sampler.steps=2", "batch_size=2", "steps=2", "tensorboard=false", "device=cpu",
)  # fmt: skip


def _sets(*assignments: str) -> list[str]:
    return [text for assignment in assignments for text in ("--set", assignment)]


def test_the_config_is_the_recipe_with_every_change() -> None:
    arguments = [
        "train",
        "tiny-pretrain",
        "-d",
        "a,b",
        "-d",
        "c[1].tar",
        "-o",
        "there",
        "--list-fields",
    ]
    result = CliRunner().invoke(app, [*arguments, *_sets("optimizer.learning_rate=2e-4")])
    assert result.exit_code == 0
    config = TrainConfig.from_dict(json.loads(result.stdout))
    assert config.data.paths == ("a,b", "c[1].tar")
    assert config.output == "there"
    assert config.optimizer.learning_rate == 2e-4
    assert config.model == recipe("tiny-pretrain").model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "no recipe 'huge'"),
        (["fewer-params", *_sets("learning_rate=1")], "did you mean optimizer.learning_rate"),
        (["fewer-params", "--data", "not-there"], "not-there is no folder, image, tar"),
        (["tiny-pretrain"], "name a folder, tar or pattern with --data, such as `flowmo train"),
        (["fewer-params", *_sets("losses.sample_mse=1")], "ignores losses.sample_mse = 1.0"),
    ],
)
def test_mistakes_are_one_line_and_status_1(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    small = [*_sets(*_SMALL), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["train", *arguments, *small])
    assert result.exit_code == 1
    assert message in result.stderr


def test_finetuning_begins_with_the_shipped_model(tmp_path: Path) -> None:
    """One step through the whole command; the weights come from the shipped checkpoint."""
    for i in range(2):
        Image.new("RGB", (150, 130), (100 * i, 50, 50)).save(tmp_path / f"{i}.png")
    run = tmp_path / "run"
    arguments = ["train", "finetune", "--data", str(tmp_path), "--out", str(run)]
    few = _sets("steps=1", "batch_size=1", "tensorboard=false", "device=cpu", "sample_interval=0")
    result = CliRunner().invoke(app, [*arguments, *few])
    assert result.exit_code == 0, result.output
    assert "tiny, 15.58 M parameters; 2 images; cpu" in result.stderr
    tuned, shipped = FlowMo.from_pretrained(run / "export"), FlowMo.from_pretrained("tiny")
    assert tuned.config == shipped.config
    ours, theirs = (m.decoder.img_in.weight.detach().float() for m in (tuned, shipped))
    # A step is no further than the learning rate, and no nearer than bfloat16 can tell.
    assert torch.allclose(ours, theirs, atol=5e-3, rtol=1e-2)


def test_a_run_ends_with_a_model_folder_that_loads(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (20, 20), (100 * i, 50, 50)).save(tmp_path / f"{i}.png")
    arguments = ["train", "tiny-pretrain", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, *_sets(*_SMALL)])
    assert result.exit_code == 0, result.output
    assert "finished after 2 steps" in result.stdout
    assert FlowMo.from_pretrained(tmp_path / "run" / "export").config.image_size == 16
    again = CliRunner().invoke(app, [*arguments, *_sets(*_SMALL)])
    assert again.exit_code == 1
    assert "--resume" in again.stderr
    resumed = CliRunner().invoke(app, [*arguments, "--resume", *_sets(*_SMALL, "steps=3")])
    assert "finished after 3 steps" in resumed.stdout
