"""A run killed in the middle of any of its file operations, and what it leaves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flowmo.training.checkpointing.checkpoint import checkpoint_folders
from flowmo.training.config import TrainConfig, ValidationConfig
from tests.training.processes import assert_same, run_killed

_KILLS = 10


def test_a_run_killed_in_any_file_operation_goes_on_as_if_it_had_not_been(
    run_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Log lines span checkpoints, checkpoints validations, and everything is kept or deleted."""
    config = run_config(
        steps=40,
        log_interval=3,
        checkpoint_interval=2,
        keep_every=10,
        keep_best=True,
        validation=ValidationConfig(interval=5),
        output=str(tmp_path / "killed"),
    )
    straight = replace(config, output=str(tmp_path / "straight"))
    outcomes = run_killed(config, straight, kills=_KILLS, within=90)
    assert outcomes[-2:] == ["0", "0"]
    assert outcomes.count("killed") > _KILLS // 2
    assert_same(config, straight)
    folders = [checkpoint_folders(Path(c.output)) for c in (config, straight)]
    assert [path.name for path in folders[0]] == [path.name for path in folders[1]]
    for name in ("export", "best"):
        weights = [Path(c.output) / name / "model.safetensors" for c in (config, straight)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert {path.name for path in Path(config.output).iterdir()} == {
        "best", "checkpoints", "config.json", "export", "log.jsonl",
    }  # fmt: skip
