"""The paper's experiments at tiny size: what they compute, write and go on from."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.model.config import FlowMoConfig, preset
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.training.config import TrainConfig
from flowmo.training.evaluation import NO_NETWORKS, EvaluationError, NetworkSources, Plan, Ranks
from flowmo.training.experiments import (
    Setup,
    noise_norm,
    precision_recall,
    wall_clock,
    width_scaling,
)
from flowmo.training.experiments.width_scaling import parameters, widened
from tests.training.processes import environment_of, free_port

TINY = Path(__file__).resolve().parents[3] / "checkpoints" / "tiny"


@pytest.fixture
def setup(pictures: Path) -> Setup:
    return Setup(
        data=(str(pictures),), limit=6, sources=NO_NETWORKS, plan=Plan(batch=4, shard=4, shown=1)
    )


@pytest.fixture(scope="session")
def checkpoints(micro_model: FlowMoConfig, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two rates, six and twelve bits a token, with gates that let the tokens through."""
    folders = []
    for number, bits in enumerate((6, 12)):
        torch.manual_seed(number)
        model = FlowMo(replace(micro_model, name=f"micro {bits}", token_bits=bits))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        folders.append(str(tmp_path_factory.mktemp("checkpoint") / f"{bits}"))
        model.save_pretrained(folders[-1])
    return folders


def is_picture(path: Path) -> bool:
    with Image.open(path) as opened:
        return opened.width > 300


def test_noise_norm_sweeps_a_curve_a_rate(
    checkpoints: list[str], setup: Setup, tmp_path: Path
) -> None:
    out = tmp_path / "curves"
    result = noise_norm(checkpoints, setup=setup, out=out, factors=(0.0, 1.0))
    assert result is not None
    assert json.loads(Path(f"{out}.json").read_text())["paper"] == "supplement C.1"
    assert is_picture(Path(f"{out}.png"))
    assert result["perception"] is None  # no networks
    rates = [curve["bits_per_pixel"] for curve in result["curves"]]
    assert rates == [3 * 8 / 32**2, 6 * 8 / 32**2]
    for curve in result["curves"]:
        still, noisy = curve["points"]
        assert (still["factor"], noisy["factor"], still["pictures"]) == (0.0, 1.0, 6)
        # These weights hardly change their input: without noise they give grey, which is nearer.
        assert still["psnr"] > noisy["psnr"] + 2
    with pytest.raises(EvaluationError, match="of other settings: methods.noise 0.5 is new"):
        noise_norm(checkpoints, setup=setup, out=out, factors=(0.0, 0.5))
    with pytest.raises(EvaluationError, match="at least one checkpoint"):
        noise_norm([], setup=setup, out=out)


def test_noise_norm_takes_what_perception_there_is(
    checkpoints: list[str], setup: Setup, tmp_path: Path
) -> None:
    sources = NetworkSources(lpips="random", lpips_backbone="alex", inception="none", vgg16="none")
    result = noise_norm(
        checkpoints[:1], setup=replace(setup, sources=sources), out=tmp_path / "c", factors=(1.0,)
    )
    assert result is not None
    assert result["perception"] == "lpips"
    assert any("lpips-alex are random" in caveat for caveat in result["caveats"])


def test_ranks_share_an_experiment(checkpoints: list[str], setup: Setup, tmp_path: Path) -> None:
    out = tmp_path / "shared"
    second = replace(setup, ranks=Ranks(rank=1, world=2))
    assert noise_norm(checkpoints[:1], setup=second, out=out, factors=(1.0,)) is None
    reported: list[str] = []
    first = replace(setup, ranks=Ranks(rank=0, world=2), report=reported.append)
    shared = noise_norm(checkpoints[:1], setup=first, out=out, factors=(1.0,))
    alone = noise_norm(checkpoints[:1], setup=setup, out=tmp_path / "alone", factors=(1.0,))
    assert [len(reported), shared] == [1, alone]  # one shard was left to do


def test_the_published_parameter_counts_are_those_of_the_decoders_width() -> None:
    millions = [parameters(widened(preset("small"), 192 * w)) / 1e6 for w in (2, 3, 4, 5)]
    assert [round(m) for m in millions] == [260, 367, 517, 710]
    assert widened(preset("small"), 768).decoder == preset("small").decoder
    with pytest.raises(ConfigError, match="width 100 must be divisible by heads 12"):
        widened(preset("small"), 100)
    # Of a prior's recipe it says so, instead of looking for a decoder.
    options = ["--train", "tokens", "--recipe", "prior-tiny", "--out", "widths"]
    result = CliRunner().invoke(app, ["experiment", "width-scaling", *options])
    assert result.exit_code == 1
    assert "the task 'prior' trains none" in result.stderr


def test_widths_are_trained_once_and_evaluated(
    run_config: Callable[..., TrainConfig], setup: Setup, tmp_path: Path
) -> None:
    out = tmp_path / "widths"
    config = run_config(steps=2)
    first = width_scaling(config, setup=setup, out=out, widths=(1, 2), unit=16)
    assert first is not None
    assert is_picture(Path(f"{out}.png"))
    rows = first["rows"]
    assert [row["decoder_width"] for row in rows] == [16, 32]
    assert rows[0]["parameters"] < rows[1]["parameters"]
    assert all(row["steps"] == 2 and row["pictures"] == 6 and row["psnr"] > 0 for row in rows)
    trained = FlowMo.from_pretrained(tmp_path / "widths.work" / "width-1" / "run" / "export")
    assert trained.config.decoder.width == 16
    logs = sorted((tmp_path / "widths.work").glob("width-*/run/log.jsonl"))
    before = [log.read_bytes() for log in logs]
    again = width_scaling(config, setup=setup, out=out, widths=(1, 2), unit=16)
    assert again == first
    assert [log.read_bytes() for log in logs] == before  # no step was taken
    more = width_scaling(run_config(steps=3), setup=setup, out=out, widths=(1,), unit=16)
    assert more is not None
    assert more["rows"][0]["steps"] == 3


def test_processes_train_and_evaluate_widths_together(tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "widths"
    small = [
        f"{half}.{field}" for half in ("model.encoder", "model.decoder")
        for field in ("width=16", "heads=2", "depth=1")
    ]  # fmt: skip
    others = ["model.image_size=32", "model.code_length=4", "batch_size=4", "compile=false"]
    command = [
        *("experiment", "width-scaling", "--out", str(out), "--train", str(pictures)),
        *("--recipe", "tiny-pretrain", "--widths", "1,2", "--unit", "16", "--steps", "2"),
        *("--data", str(pictures), "--limit", "6", "--inception", "none", "--lpips", "none"),
        *(part for text in (*small, *others, "data.workers=0") for part in ("-s", text)),
    ]
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "flowmo", *command],
            env=environment_of(rank, 2, port), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert f"{out}.json" in ended[0][0]
    assert ended[1] == ("", "")
    rows = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["width"], row["steps"], row["pictures"]) for row in rows] == [(1, 2, 6), (2, 2, 6)]


def test_precision_and_recall_of_two_checkpoints(
    checkpoints: list[str],
    setup: Setup,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "shares"
    before, after = checkpoints
    monkeypatch.setattr(Setup, "networks", lambda _: colours())
    result = precision_recall(
        before, after, train=[str(pictures)], train_limit=5, setup=setup, out=out
    )
    assert result is not None
    assert is_picture(Path(f"{out}.png"))
    assert (result["val_pictures"], result["train_pictures"]) == (6, 5)
    assert [row["checkpoint"] for row in result["models"].values()] == checkpoints
    for row in result["models"].values():
        for which in ("train", "val"):
            assert 0 <= row[which]["precision"] <= 1
            assert 0 <= row[which]["recall"] <= 1
    with pytest.raises(EvaluationError, match="give --train"):
        precision_recall(before, after, train=[], setup=setup, out=out)
    with pytest.raises(EvaluationError, match="images differ in size.*32.*128"):
        precision_recall(before, str(TINY), train=[str(pictures)], setup=setup, out=out)


def colours() -> Any:
    """Mean colours instead of features."""
    from flowmo.training.evaluation import Networks
    from flowmo.training.evaluation.protocol import INCEPTION, VGG16

    class Colours(Networks):
        def features(self, levels: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
            return dict.fromkeys(names or (INCEPTION, VGG16), levels.float().mean((2, 3)))

    return Colours(NO_NETWORKS)


def test_times_are_of_both_halves(checkpoints: list[str], tmp_path: Path) -> None:
    out = tmp_path / "times"
    result = wall_clock([checkpoints[0], "preset:tiny"], out=out, repeats=2)
    assert is_picture(Path(f"{out}.png"))
    micro, tiny = result["rows"]
    assert (micro["steps"], micro["model"], tiny["model"]) == (2, "micro 6", "tiny")
    for row in result["rows"]:
        for half in ("encode", "decode"):
            assert 0 < row[half]["fastest"] <= row[half]["seconds"] <= row[half]["slowest"]
    with pytest.raises(EvaluationError, match="a checkpoint and a repetition, got repeats=0"):
        wall_clock(checkpoints, out=out, repeats=0)
    with pytest.raises(ConfigError, match="no preset 'huge'"):
        wall_clock(["preset:huge"], out=out)


def test_the_commands_write_what_they_print(
    checkpoints: list[str], pictures: Path, tmp_path: Path
) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["experiment", *arguments])
        assert result.exit_code == 0, result.output
        assert f"{tmp_path}/{arguments[0]}.json" in result.stdout
        assert Path(f"{tmp_path}/{arguments[0]}.png").exists()
        return result.stdout

    without = ["--inception=none", "--lpips=none", f"--data={pictures}", "--limit=4"]
    out = {name: f"--out={tmp_path}/{name}" for name in _NAMES}
    printed = run("noise-norm", checkpoints[0], out["noise-norm"], "--factors=0,1", *without)
    assert "0.023 bit a pixel" in printed
    printed = run(
        *("precision-recall", *checkpoints, f"--train={pictures}"),
        *(out["precision-recall"], "--vgg=none", *without),
    )
    assert "before" in printed
    assert "encode" in run("wall-clock", checkpoints[0], out["wall-clock"], "--repeats=1")
    sizes = ["image_size=32", "code_length=4", "encoder.width=32", "encoder.depth=1"]
    sets = [f"--set=model.{size}" for size in [*sizes, "decoder.depth=1", "encoder.heads=2"]]
    run(
        *(
            "width-scaling",
            "--recipe=tiny-pretrain",
            f"--train={pictures}",
            "--widths=1",
            "--unit=32",
        ),
        *("--steps=1", *sets, "--set=batch_size=2", "--set=tensorboard=false", "--set=device=cpu"),
        *(out["width-scaling"], *without),
    )
    wrong = CliRunner().invoke(app, ["experiment", "noise-norm", "x", "-o", "y", "--factors=a"])
    assert (wrong.exit_code, "--factors takes numbers" in wrong.stderr) == (1, True)


_NAMES = ("noise-norm", "precision-recall", "wall-clock", "width-scaling")
