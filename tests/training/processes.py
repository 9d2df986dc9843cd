"""Runs of several processes: started as torchrun starts them, without its own start-up time."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from flowmo.training.checkpointing.checkpoint import checkpoint_folders, load_checkpoint
from flowmo.training.config import AnyTrainConfig

# A process that counts the operations that change files and kills itself, threads and all, instead
# of one of them.
ARM = """
import os, signal

def arm(fatal):
    counted = [0]
    def wrap(operation):
        def counting(*arguments, **options):
            counted[0] += 1
            if counted[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)
        return counting
    for name in ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink"):
        setattr(os, name, wrap(getattr(os, name)))
"""

# Several runs one after the other in one group, because a process takes seconds to start.
WORKER = f"""{ARM}
import importlib, io, json, sys
import torch.distributed as dist
from rich.console import Console
from flowmo.training.config import AnyTrainConfig, TrainConfig
from flowmo.training.loop.trainer import train

for module in sys.argv[2:]:
    importlib.import_module(module)
configs = [TrainConfig.from_dict(data) for data in json.load(open(sys.argv[1]))]
if os.environ["RANK"] == "0" and "FATAL_OPERATION" in os.environ:
    arm(int(os.environ["FATAL_OPERATION"]))
if len(configs) > 1:
    dist.init_process_group("gloo")
for config in configs:
    result = train(config, resume=True, console=Console(file=io.StringIO()))
    print(result.stopped, result.step, flush=True)
if len(configs) > 1:
    dist.destroy_process_group()
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment_of(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets for a process, and where the packages are."""
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])
        ),
    }


class Processes:
    """A run's processes, each with its own output.

    Args:
        configs: what to run, one after the other; runs go on where their folders are.
        folder: for files of the test.
        size: how many processes.
        fatal: the first process is killed instead of this operation on files, counted from 1.
        modules: what each process imports first, since it registers a task.
    """

    def __init__(
        self,
        configs: Sequence[AnyTrainConfig],
        folder: Path,
        *,
        size: int = 2,
        fatal: int | None = None,
        modules: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "configs.json"
        path.write_text(json.dumps([config.to_dict() for config in configs]))
        port = free_port()
        self._logs = [folder / f"rank{rank}.log" for rank in range(size)]
        self.all = []
        for rank, log in enumerate(self._logs):
            environment = environment_of(rank, size, port)
            if fatal is not None:
                environment["FATAL_OPERATION"] = str(fatal)
            with log.open("wb") as file:
                self.all.append(
                    subprocess.Popen(
                        [sys.executable, "-c", WORKER, str(path), *modules],
                        env=environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait_for_step(self, output: str, step: int) -> None:
        """Until the run's log has a line of ``step`` or a later one."""
        log = Path(output) / "log.jsonl"
        for _ in range(1200):
            lines = log.read_text().splitlines() if log.exists() else []
            if lines and json.loads(lines[-1])["step"] >= step:
                return
            assert all(process.poll() is None for process in self.all), self.output()
            time.sleep(0.05)
        raise AssertionError(self.output())

    def kill(self, *ranks: int) -> None:
        for rank in ranks:
            self.all[rank].send_signal(signal.SIGKILL)

    def wait(self, seconds: float = 120.0) -> list[int]:
        """Exit statuses; all must end within so many seconds."""
        try:
            return [process.wait(seconds) for process in self.all]
        except subprocess.TimeoutExpired:
            self.kill(*range(len(self.all)))
            raise AssertionError(f"a process did not end:\n{self.output()}") from None

    def finish(self) -> list[str]:
        """What the main process said of each run; all processes must succeed."""
        assert self.wait() == [0] * len(self.all), self.output()
        lines = self._logs[0].read_text().splitlines()
        return [line for line in lines if line.split()[0] in ("finished", "interrupted", "early")]

    def output(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in self._logs)


def log_of(config: AnyTrainConfig) -> list[dict[str, float]]:
    """The lines of a run's log without what the clock decides."""
    lines = (Path(config.output) / "log.jsonl").read_text().splitlines()
    timings = ("images_per_second", "step_ms", "data_ms", "data_share")
    return [{k: v for k, v in json.loads(line).items() if k not in timings} for line in lines]


def tensors_of(config: AnyTrainConfig) -> dict[str, torch.Tensor]:
    """What a run's latest checkpoint holds."""
    return load_checkpoint(checkpoint_folders(Path(config.output))[-1]).tensors()


def assert_same(a: AnyTrainConfig, b: AnyTrainConfig) -> None:
    """Two runs have the same log and the same state, bit by bit."""
    assert log_of(a) == log_of(b)
    one, other = tensors_of(a), tensors_of(b)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_near(a: AnyTrainConfig, b: AnyTrainConfig) -> None:
    """Two short runs differ by rounding alone, which grows from step to step.

    A step moves a weight by up to 1e-3; what is wrong differs by as much.
    """
    one, other = tensors_of(a), tensors_of(b)
    assert one.keys() == other.keys()
    far = [
        f"{name}: {(one[name].double() - other[name].double()).abs().max():.1e}"
        for name in one
        if not torch.allclose(one[name].double(), other[name].double(), rtol=1e-3, atol=5e-5)
    ]
    assert far == [], far
    for line, expected in zip(log_of(a), log_of(b), strict=True):
        assert line.keys() == expected.keys(), (line, expected)
        # Entropies of codes that are all but certain are small differences of large numbers.
        other_values = {
            name: (value, expected[name])
            for name, value in line.items()
            if value != pytest.approx(expected[name], rel=1e-3, abs=5e-5)
        }
        assert other_values == {}, other_values
