"""A run killed in the middle of any of its file operations, and what it leaves."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flowmo.training.checkpointing.checkpoint import checkpoint_folders
from flowmo.training.config import TrainConfig, ValidationConfig
from tests.training.processes import ARM, assert_same

# A process that forks one child a kill, since importing torch takes longer than such a run.
_PROGRAM = f"""{ARM}
import io, json, random, sys
from rich.console import Console
from flowmo import training
from flowmo.training.libraries import library
from flowmo.training.loop.trainer import train

library("torchmetrics.functional.image")  # for validation, once for all children
killed, straight = (training.TrainConfig.from_dict(data) for data in json.loads(sys.argv[1]))
generator = random.Random(0)
for attempt in range(int(sys.argv[2]) + 2):
    last = attempt > int(sys.argv[2])
    child = os.fork()
    if child == 0:
        if attempt < int(sys.argv[2]):
            arm(generator.randrange(1, 90))
        train(straight if last else killed, resume=True, console=Console(file=io.StringIO()))
        os._exit(0)
    generator.random()
    status = os.waitpid(child, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
"""
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
    configs = json.dumps([config.to_dict(), straight.to_dict()])
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, configs, str(_KILLS)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    outcomes = result.stdout.split()
    assert outcomes[-2:] == ["0", "0"], result.stderr
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
