"""Runs of several processes: started as torchrun starts them, without its own start-up time."""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from flowmo.training.checkpointing.checkpoint import checkpoint_folders, load_checkpoint
from flowmo.training.config import AnyTrainConfig


class Process:
    """One process of a run, forked from one that has imported everything."""

    def __init__(self, **job: object) -> None:
        self.pid = _ask({"start": job})
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self._status is None:
            self._status = _ask({"poll": self.pid})
        return self._status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@functools.cache
def _forks() -> "subprocess.Popen[str]":
    warm = subprocess.Popen(
        [sys.executable, "-m", "tests.training.warm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> None:
        warm.communicate()  # it ends with its input

    atexit.register(end)
    return warm


def _ask(request: dict[str, object]) -> Any:
    warm = _forks()
    assert warm.stdin is not None
    assert warm.stdout is not None
    warm.stdin.write(f"{json.dumps(request)}\n")
    warm.stdin.flush()
    return json.loads(warm.stdout.readline())


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
        port = free_port()
        self._logs = [folder / f"rank{rank}.log" for rank in range(size)]
        self.all = [
            Process(
                configs=[config.to_dict() for config in configs],
                environment=environment_of(rank, size, port),
                modules=list(modules),
                log=str(log),
                fatal=fatal if rank == 0 else None,
            )
            for rank, log in enumerate(self._logs)
        ]

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
        end = time.monotonic() + seconds
        while True:
            statuses = [process.poll() for process in self.all]
            ended = [status for status in statuses if status is not None]
            if len(ended) == len(statuses):
                return ended
            if time.monotonic() > end:
                self.kill(*range(len(self.all)))
                raise AssertionError(f"a process did not end:\n{self.output()}")
            time.sleep(0.02)

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
