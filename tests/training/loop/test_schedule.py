"""Learning rates over a run."""

from itertools import pairwise

import pytest

from flowmo.training.config import OptimizerConfig
from flowmo.training.loop.schedule import learning_rate_factor, progress


def _factors(config: OptimizerConfig, steps: int = 100) -> list[float]:
    return [
        learning_rate_factor(config, step=step, progress=step / steps) for step in range(steps + 1)
    ]


def test_constant_is_the_papers_rate() -> None:
    assert set(_factors(OptimizerConfig())) == {1.0}


def test_warm_up_rises_linearly_from_the_first_step() -> None:
    factors = _factors(OptimizerConfig(warmup_steps=4))
    assert factors[:6] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_decay_starts_where_told_and_ends_at_its_fraction() -> None:
    factors = _factors(OptimizerConfig(schedule="linear", decay_from=0.5, final_fraction=0.1))
    assert factors[:51] == [1.0] * 51
    assert factors[75] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)


def test_cosine_decay_is_half_way_in_the_middle() -> None:
    factors = _factors(OptimizerConfig(schedule="cosine"))
    assert factors[50] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(factors))


def test_progress_is_the_further_of_steps_and_minutes_when_asked_for() -> None:
    def at(seconds: float, *, over_budget: bool, max_minutes: float | None = 10) -> float:
        return progress(
            step=20, steps=100, seconds=seconds, max_minutes=max_minutes, over_budget=over_budget
        )

    assert at(300, over_budget=False) == 0.2
    assert at(300, over_budget=True) == 0.5
    assert at(60, over_budget=True) == 0.2
    assert at(1e9, over_budget=True) == 1.0
    assert at(300, over_budget=True, max_minutes=None) == 0.2
