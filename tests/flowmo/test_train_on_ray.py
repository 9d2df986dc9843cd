"""``flowmo train --ray-workers`` on a real Ray cluster of this machine."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flowmo.cli import app
from flowmo.cli.train_on_ray import RayOptions
from flowmo.model.errors import ConfigError
from flowmo.training import TrainConfig, train
from tests.training.conftest import write_pictures

_SMALL = (
    "model.image_size=16", "model.patch_size=4", "model.code_length=4",
    "model.encoder.width=32", "model.encoder.heads=2", "model.encoder.depth=1",
    "model.decoder.width=32", "model.decoder.heads=2", "model.decoder.depth=1",
    "model.sampler.steps=2", "batch_size=4", "tensorboard=false", "device=cpu",
    "precision=float32", "data.workers=0", "data.cache=none", "data.repeat_by_area=false",
    "log_interval=1",
    "sample_interval=0", "checkpoint_interval=20", "checkpoint_minutes=none", "optimizer.eps=1e-3",
    "optimizer.anneal_over_budget=false", "max_minutes=none",
)  # fmt: skip


def _command(pictures: Path, out: Path, steps: int) -> list[str]:
    sets = [text for assignment in (*_SMALL, f"steps={steps}") for text in ("-s", assignment)]
    return ["train", "tiny-pretrain", "-d", str(pictures), "-o", str(out), *sets]


def _log(out: Path) -> list[dict[str, float]]:
    path = out / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    timings = ("images_per_second", "step_ms", "data_ms", "data_share")
    return [{k: v for k, v in json.loads(line).items() if k not in timings} for line in lines]


def _workers(ancestor: int) -> list[int]:
    """Process ids of Ray Train's workers on the cluster that a process has started."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                pid = int(folder.name)
                while pid not in (1, ancestor):
                    pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if pid == ancestor:
                    found.append(int(folder.name))
        except OSError:  # ended while we looked
            continue
    return sorted(found)


def test_a_run_whose_worker_is_killed_goes_on_and_gives_the_numbers_of_one_process(
    tmp_path: Path,
) -> None:
    pictures = tmp_path / "pictures"
    write_pictures(pictures)
    # Enough that the run is under way when its worker is killed, however quick the machine is.
    steps, out = 600, tmp_path / "ray"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "flowmo", *_command(pictures, out, steps)]
    command += ["--ray-workers", "2", "--ray-retries", "1"]
    with (tmp_path / "ray.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        for _ in range(1200):
            if len(_log(out)) > 45:
                break
            assert process.poll() is None, (tmp_path / "ray.log").read_text()
            threading.Event().wait(0.05)
        os.kill(_workers(process.pid)[-1], signal.SIGKILL)
        assert process.wait(180) == 0, (tmp_path / "ray.log").read_text()
    finally:
        process.terminate()
        process.wait(60)
    text = (tmp_path / "ray.log").read_text()
    assert f"finished after {steps} steps" in text
    assert "resumed from" in text
    assert [line["step"] for line in _log(out)] == list(range(1, steps + 1))

    config = json.loads((out / "config.json").read_text())
    # Only the first steps: later a code's sign somewhere turns on the rounding of a sum.
    config |= {"output": str(tmp_path / "alone"), "accumulation": 2, "steps": 12}
    train(TrainConfig.from_dict(config), console=Console(quiet=True))
    for line, expected in zip(_log(out), _log(tmp_path / "alone"), strict=False):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-3)

    # What is there is not trained over by mistake; no cluster is needed to say so.
    again = CliRunner().invoke(app, [*_command(pictures, out, steps), "--ray-workers", "2"])
    assert again.exit_code == 1
    assert f"holds a run with checkpoints up to step_{steps:09d}" in again.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--ray-workers must be at least 1, got 0"),
        ({"workers": 1, "gpus_per_worker": 2.0}, "More GPUs are more --ray-workers"),
        ({"workers": 2, "gpus_per_worker": 0.5}, "nccl refuses two processes on the same one"),
        ({"workers": 1, "retries": -1}, "--ray-retries must be at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RayOptions(**options)  # type: ignore[arg-type]
