"""The average of the weights: what it forgets, and how fast."""

import pytest
import torch
from torch import nn

from flowmo.training.loop.ema import WeightEMA


@pytest.mark.parametrize("half_life", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("steps", [200, 2_000])
def test_half_of_the_average_is_of_a_share_of_the_run(half_life: float, steps: int) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1e6)  # of what a run begins with nothing is left
    average = WeightEMA(model, decay=0.5, ramp=True, half_life=half_life)
    for step in range(1, steps + 1):
        nn.init.constant_(model.weight, float(step > (1 - half_life) * steps))
        average.update(step)
    assert average.shadow["weight"].item() == pytest.approx(0.5, abs=3 / steps / half_life)


def test_the_first_step_replaces_what_the_run_began_with() -> None:
    average = WeightEMA(nn.Linear(2, 2), decay=0.9, half_life=0.25)
    assert average.decay_at(1) == 0.0
    decays = torch.tensor([average.decay_at(step) for step in range(1, 500)])
    assert (decays.diff() > 0).all()
    assert decays[-1] < 1
