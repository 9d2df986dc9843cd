"""Averages between two log lines, and what a checkpoint holds of them."""

import json

import pytest
import torch
from torch import Tensor

from flowmo.training.loop.meters import Meters


def _alone(numbers: Tensor) -> Tensor:
    return numbers


def _fed(*losses: float) -> Meters:
    meters = Meters()
    for loss in losses:
        meters.add("loss", torch.tensor(loss))
        meters.count(learning_rate=0.5)
    return meters


def test_a_line_that_a_stop_falls_into_is_the_line_without_it() -> None:
    losses = [0.1, 0.7, 1.3, 0.2, 0.9]
    before = json.loads(json.dumps(_fed(*losses[:2]).state()))
    after = Meters()
    after.load_state([before], 0, 1)
    for loss in losses[2:]:
        after.add("loss", torch.tensor(loss))
        after.count(learning_rate=0.5)
    assert after.take(_alone)["loss"] == _fed(*losses).take(_alone)["loss"]


def test_each_process_takes_its_own_sums_or_the_mean_if_there_are_others() -> None:
    states = [_fed(1.0).state(), _fed(3.0).state()]
    for rank, size, expected in ((0, 2, 1.0), (1, 2, 3.0), (0, 1, 2.0), (2, 3, 2.0)):
        meters = Meters()
        meters.load_state(states, rank, size)
        assert meters.take(_alone)["loss"] == pytest.approx(expected)


def test_milliseconds_after_a_resume_are_those_of_the_steps_since_then() -> None:
    before = _fed(0.1, 0.7, 1.3).state()
    after = Meters()
    after.load_state([before], 0, 1)
    after.add("loss", torch.tensor(0.2))
    after.count(learning_rate=0.5)
    after.time(data=0.1, step=0.4, images=8)
    line = after.take(_alone)
    assert line["loss"] == pytest.approx((0.1 + 0.7 + 1.3 + 0.2) / 4)
    assert (line["step_ms"], line["data_ms"]) == pytest.approx((400.0, 100.0))
    assert line["images_per_second"] == pytest.approx(20.0)


def test_a_line_is_a_mean_over_processes() -> None:
    assert _fed(1.0, 3.0).take(lambda sums: sums * 10)["loss"] == 20.0
