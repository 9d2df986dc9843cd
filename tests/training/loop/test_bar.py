"""What a terminal shows of a run, and a file instead."""

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from flowmo.training.config import TrainConfig
from flowmo.training.loop.bar import RunBar, duration
from flowmo.training.loop.trainer import train

Build = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"), (45, "45 s"), (100, "2 min"), (3600, "60 min"), (5400, "1 h 30 min"),
        (7200, "2 h"), (18_900, "5 h 15 min"), (172_800, "2 d"), (187_200, "2 d 4 h"),
    ],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def _terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None)


def _shown(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_rate_and_time_left_are_there_from_the_first_step(run_config: Build) -> None:
    console = _terminal()
    config = run_config(steps=101, batch_size=8)
    with RunBar(config, console, step=0, spent=0.0) as bar:
        bar.advance(1, step_seconds=2.0, spent=0.0)
    assert re.search(r"step 1 of 101 .* 4\.0 images/s, 3 min left", _shown(console))


def test_the_time_budget_ends_the_bar_where_it_is_sooner(run_config: Build) -> None:
    console = _terminal()
    config = run_config(steps=10**6, batch_size=8, max_minutes=10.0)
    with RunBar(config, console, step=100, spent=540.0) as bar:
        bar.advance(101, step_seconds=1.0, spent=570.0)
        assert bar.share == pytest.approx(0.95)
    assert "30 s left" in _shown(console)


def test_the_rate_follows_the_newest_steps(run_config: Build) -> None:
    console = _terminal()
    with RunBar(run_config(steps=1000, batch_size=10), console, step=0, spent=0.0) as bar:
        bar.advance(1, step_seconds=10.0, spent=0.0)
        for step in range(2, 200):
            bar.advance(step, step_seconds=1.0, spent=10.0 + step)
    assert "10.0 images/s, 13 min left" in _shown(console)


def test_a_terminal_sees_a_bar_and_a_file_plain_lines(run_config: Build) -> None:
    config = run_config(steps=3, log_interval=1)
    console, file = _terminal(), Console(file=io.StringIO(), width=160)
    train(config, console=console)
    train(replace(config, output=f"{config.output}-file"), console=file)
    assert "step 3 of 3" in _shown(console)
    assert "images/s" in _shown(console)
    assert "step 3 of 3" not in _shown(file)
    lines = _shown(file).splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == ["step 1", "step 2", "step 3"]


def test_a_file_says_how_long_it_takes_before_the_first_log_line(run_config: Build) -> None:
    file = Console(file=io.StringIO(), width=160)
    train(run_config(steps=3, log_interval=2), console=file)
    first, second, third, *_ = _shown(file).splitlines()
    assert first.startswith("stage 1A")
    assert re.fullmatch(r"step 1: [\d.]+ images/s, .* left, by this first step", second)
    assert third.startswith("step 2: loss")


def test_the_first_line_says_what_is_trained_on_what(run_config: Build) -> None:
    console = Console(file=io.StringIO(), width=40)
    config = run_config(steps=1200, batch_size=4, max_minutes=1e-4)
    train(config, console=console)
    threads = torch.get_num_threads()
    assert _shown(console).splitlines()[0] == (
        f"stage 1A, pre-training: micro, 0.10 M parameters; 10 images; cpu ({threads} threads), "
        f"float32; batch 4; at most 1,200 steps or 0 s"
    )
    train(replace(config, max_minutes=2e-4), resume=True, console=console)
    assert re.search(r"or 0 s, of which \d+ are done", _shown(console))
