"""A real process that is interrupted, and goes on as if it had not been."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowmo.training.checkpointing.checkpoint import load_checkpoint
from flowmo.training.config import OptimizerConfig, TrainConfig
from flowmo.training.loop.interrupt import StopRequest

_PROGRAM = """
import json, sys
from flowmo.training.config import TrainConfig
from flowmo.training.loop.trainer import train
config = TrainConfig.from_dict(json.loads(sys.argv[1]))
result = train(config, resume=True)
print(json.dumps([result.stopped, result.step]))
"""
_ROOT = Path(__file__).parents[3]


def _start(config: TrainConfig) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(config.to_dict())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[str]) -> tuple[str, int]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    stopped, step = json.loads(out)
    return stopped, step


def _wait_for_step(process: subprocess.Popen[str], config: TrainConfig, step: int) -> None:
    path = Path(config.output) / "log.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"the run did not reach step {step}: {process.communicate()[1]}")


def test_interrupted_twice_and_resumed_is_the_uninterrupted_run(
    run_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = run_config(
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine"),
        steps=150,
        log_interval=1,
        output=str(tmp_path / "interrupted"),
    )
    config = replace(config, data=replace(config.data, workers=1))
    step = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        process = _start(config)
        _wait_for_step(process, config, step + 1)
        os.killpg(process.pid, number)  # as terminals do: workers get the signal too
        before = step
        stopped, step = _finish(process)
        assert stopped == "interrupted"
        assert before < step < 150
        assert (Path(config.output) / "export").is_dir()
    assert _finish(_start(config)) == ("finished", 150)

    straight = replace(config, output=str(tmp_path / "straight"))
    assert _finish(_start(straight)) == ("finished", 150)
    states = [
        load_checkpoint(Path(c.output) / "checkpoints" / "step_000000150").tensors()
        for c in (config, straight)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_second_signal_does_not_wait_and_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_no_handler_is_set() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def run() -> None:
        with StopRequest() as stop:
            seen.extend([stop.requested, signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False, before]
