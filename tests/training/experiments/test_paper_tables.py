"""The paper's tables as experiments, at tiny size: Table 1, Table 2, and C.5."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import CheckpointError
from flowmo.model.flowmo import FlowMo
from flowmo.training.config import LossWeights, PerceptualConfig, TrainConfig
from flowmo.training.evaluation import NO_NETWORKS, PAPER, EvaluationError, Plan
from flowmo.training.experiments import Setup, loss_sweep, published
from flowmo.training.experiments.loss_sweep import ESTIMATE, SAMPLE, estimate_run
from flowmo.training.tasks.registry import start_from


@pytest.fixture
def setup(pictures: Path) -> Setup:
    return Setup(
        data=(str(pictures),),
        limit=4,
        sources=NO_NETWORKS,
        protocol=PAPER,
        plan=Plan(batch=4, shard=4, shown=1),
    )


@pytest.fixture(scope="module")
def checkpoint(micro_model: FlowMoConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint") / "micro"
    FlowMo(micro_model).save_pretrained(folder)
    return folder


def test_published_files_are_converted_evaluated_and_compared(
    micro_model: FlowMoConfig, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FlowMo(micro_model)
    file = tmp_path / "flowmo_lo.pth"
    torch.save({"model_ema_state_dict": model.state_dict(), "total_steps": 7}, file)
    out = tmp_path / "table1"
    result = published(
        ["lo"], setup=setup, out=out, files={"lo": file}, configs={"lo": micro_model}
    )
    assert result is not None
    row = result["models"]["lo"]
    assert row["paper"] == {"rfid": 0.95, "psnr": 22.07, "ssim": 0.649, "lpips": 0.113}
    assert row["difference"]["psnr"] == pytest.approx(row["ours"]["psnr"] - 22.07)
    assert (row["ours"]["rfid"], row["difference"]["rfid"]) == (None, None)  # no networks here
    assert (row["fingerprint"], row["pictures"]) == (model.fingerprint(), 4)
    kept = FlowMo.from_pretrained(tmp_path / "table1.work" / "lo" / "checkpoint")
    # In float32, as published.
    assert all(torch.equal(p, kept.get_parameter(n)) for n, p in model.named_parameters())
    assert json.loads(Path(f"{out}.json").read_text())["protocol"] == "paper"
    assert Path(f"{out}.png").exists()
    with pytest.raises(EvaluationError, match=r"published models are lo, hi, got \['medium'\]"):
        published(["medium"], setup=setup, out=out)

    def refuse(*_: object) -> str:
        raise OSError("no network here")

    # The function hides its module's name.
    module = sys.modules["flowmo.training.experiments.published"]
    monkeypatch.setattr(module, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError, match=r"flowmo_hi.pth cannot be .*no network.*--file lo="):
        published(["hi"], setup=setup, out=tmp_path / "other")


def test_post_training_is_shown_beside_the_papers_figures(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c5"
    command = ["experiment", "post-training", f"continuous={checkpoint},{checkpoint}"]
    options = [f"--data={pictures}", "--limit=4", "--inception=none", "--lpips=none"]
    done = CliRunner().invoke(app, [*command, *options, f"--out={out}"])
    assert done.exit_code == 0, done.output
    before, after = (line.split() for line in done.stdout.splitlines()[1:3])
    assert (before[:2], before[-3:]) == (["continuous", "before"], ["0.74", "25.65", "0.064"])
    assert (after[:2], after[-3:]) == (["continuous", "after"], ["0.65", "26.61", "0.054"])
    assert before[3] == after[3]  # the same checkpoint
    assert json.loads(Path(f"{out}.json").read_text())["paper"] == "supplement C.5"
    assert Path(f"{out}.png").exists()
    for wrong in ("name", "name=one"):
        bad = CliRunner().invoke(app, ["experiment", "post-training", wrong, f"--out={out}"])
        assert (bad.exit_code, "NAME=BEFORE,AFTER" in bad.stderr) == (2, True)


def test_losses_on_samples_and_on_estimates_are_swept(
    run_config: Callable[..., TrainConfig], checkpoint: Path, setup: Setup, tmp_path: Path
) -> None:
    config = replace(
        run_config(steps=1, batch_size=2),
        task="post-train",
        init=str(checkpoint),
        encoder_freeze_step=0,
        losses=LossWeights(sample_perceptual=0.01),
        perceptual=PerceptualConfig(network="efficientnet-lite0", weights="random"),
    )
    config = start_from(config, str(checkpoint))
    assert isinstance(config, TrainConfig)
    other = estimate_run(config, 0.5)
    assert (other.task, other.losses.perceptual, other.encoder_freeze_step) == ("pretrain", 0.5, 0)
    assert (other.init, other.optimizer, other.batch_size) == (
        config.init,
        config.optimizer,
        config.batch_size,
    )
    out = tmp_path / "table2"
    result = loss_sweep(config, setup=setup, out=out, weights=(0.05,))
    assert result is not None
    assert [(r["loss"], r["weight"], r["paper_rfid"]) for r in result["rows"]] == [
        (SAMPLE, 0.01, 1.28),
        (ESTIMATE, 0.05, 2.57),
    ]
    terms = {
        where: json.loads(
            (tmp_path / "table2.work" / folder / "run" / "log.jsonl").read_text().splitlines()[0]
        )
        for where, folder in ((SAMPLE, "sample-0.01"), (ESTIMATE, "estimate-0.05"))
    }
    assert "sample_perceptual" in terms[SAMPLE]
    assert "perceptual" in terms[ESTIMATE]
    assert "sample_perceptual" not in terms[ESTIMATE]
    assert Path(f"{out}.png").exists()
    logs = sorted((tmp_path / "table2.work").glob("*/run/log.jsonl"))
    before = [log.read_bytes() for log in logs]
    again = loss_sweep(config, setup=setup, out=out, weights=(0.05,))
    assert again is not None
    assert again["rows"] == result["rows"]
    assert [log.read_bytes() for log in logs] == before  # no step was taken
    with pytest.raises(EvaluationError, match="begins with a recipe of stage 1B"):
        loss_sweep(other, setup=setup, out=out)


def test_a_checkpoint_at_several_resolutions(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "table3"
    command = ["experiment", "resolutions", str(checkpoint), f"imagenet={pictures}"]
    command += [f"other={pictures}", "--resolution=32,48", "-a", "mean-colour", "--limit=2"]
    off = ["--inception=none", "--lpips=none", f"--out={out}"]
    done = CliRunner().invoke(app, [*command, *off])
    assert done.exit_code == 0, done.output
    result = json.loads(Path(f"{out}.json").read_text())
    rows = {(row["data"], row["side"], row["method"]): row for row in result["rows"]}
    assert len(rows) == 2 * 2 * 2
    own, tiled = (rows["imagenet", side, "flowmo"] for side in (32, 48))
    # Four tiles: more bytes a pixel than one has, since they overlap.
    assert tiled["bits_a_pixel"] == pytest.approx(own["bits_a_pixel"] * 4 * 32**2 / 48**2)
    assert list(result["paper_rfid"]) == ["imagenet"]
    assert result["paper_rfid"]["imagenet"]["FlowMo-Hi"] == {"256": 0.55, "512": 0.3}
    assert Path(f"{out}.png").exists()
    bad = CliRunner().invoke(app, [*command[:3], "imagenet", *off])
    assert (bad.exit_code, "NAME=IMAGES" in bad.stderr) == (2, True)
