"""What only a CUDA device can show of training: page-locked copies, nccl, compiled bf16."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flowmo.training.config import TrainConfig
from tests.training.processes import Processes, assert_same, log_of
from tests.training.students import quiet

pytestmark = pytest.mark.gpu


@pytest.fixture
def config(run_config: Callable[..., TrainConfig], tmp_path: Path) -> TrainConfig:
    return run_config(
        device="cuda",
        precision="bf16",
        steps=6,
        log_interval=1,
        checkpoint_interval=1,
        output=str(tmp_path / "straight"),
    )


def test_a_stop_changes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    parts = replace(config, output=str(tmp_path / "parts"))
    quiet(config)
    quiet(replace(parts, steps=3))
    quiet(parts, resume=True)
    assert_same(parts, config)


def test_one_gpu_of_shards_is_one_gpu(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, precision="tf32")
    shards = replace(config, parallel="fsdp", output=str(tmp_path / "shards"))
    compiled = replace(shards, precision="bf16", compile=True, output=str(tmp_path / "compiled"))
    quiet(config)
    runs = [[shards], [compiled], [replace(compiled, steps=8)]]  # one by one, so that nccl is used
    for number, run in enumerate(runs):
        Processes(run, tmp_path / str(number), size=1).finish()
    for line, expected in zip(log_of(shards), log_of(config), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-2)
    assert [line["step"] for line in log_of(compiled)] == list(range(1, 9))
