"""How many ids are masked when: in training by a random number, in sampling step by step."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowmo.model.errors import ConfigError
from flowmo.model.prior.sampler_config import MaskSchedule

MEAN_RATE = 2 / math.pi
"""The mean of either schedule over uniform r."""

_RATES: dict[MaskSchedule, Callable[[Tensor], Tensor]] = {
    "arccos": lambda r: MEAN_RATE * torch.acos(r),
    "cosine": lambda r: torch.cos(math.pi / 2 * r),
}


def mask_rate(r: Tensor, schedule: MaskSchedule) -> Tensor:
    """The share of masked ids, falling from 1 at r = 0 to 0 at r = 1.

    Args:
        r: Numbers in [0, 1], of any shape.
        schedule: ``arccos``, 2 acos(r) / pi, or ``cosine``, cos(pi r / 2).
    """
    return _RATES[schedule](r).clamp(0.0, 1.0)


def mask_counts(r: Tensor, length: int, schedule: MaskSchedule) -> Tensor:
    """How many of ``length`` ids training masks at r: ceil(rate x length), at least one, int64."""
    rates = mask_rate(r.double(), schedule)
    return (rates * length).ceil().long().clamp(1, length)


def reveal_counts(unknown: int, steps: int, schedule: MaskSchedule) -> tuple[int, ...]:
    """How many ids each step of a sampler finds.

    Args:
        unknown: The number n of ids to find, >= 0.
        steps: S; where there are fewer ids than steps, as many steps as ids are taken.
        schedule: The share that is still masked after the share r of the steps.

    Returns:
        min(S, n) numbers, each at least 1, whose sum is n.

    Raises:
        ConfigError: ``steps`` is below 1.
    """
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}")
    steps = min(steps, unknown)
    r = torch.arange(steps + 1, dtype=torch.float64) / max(steps, 1)
    left = unknown
    counts = []
    for step, rate in enumerate(mask_rate(r, schedule).tolist()[1:], start=1):
        # One id for each step that is still to come, and at least one for this.
        after = min(max(math.floor(unknown * rate), steps - step), left - 1)
        counts.append(left - after)
        left = after
    return tuple(counts)
