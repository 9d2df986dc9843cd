"""Rectified-flow sampling as pure functions of a velocity callable (SPEC "Decode").

x_t = (1 - t) x + t eps, velocity v = eps - x, t = 1 is noise. Nothing here knows the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError

MERGED_STEPS = 6
"""How many last steps of the power grid the schedule ``merged`` takes as one."""


class Velocity(Protocol):
    """A velocity field v(x, t), any number of dimensions, t one number for the batch."""

    def __call__(self, x: Tensor, t: float, /) -> Tensor:
        """v(x, t), of x's shape."""


class ConditionalVelocity(Protocol):
    """A velocity field with one condition a row."""

    def __call__(self, x: Tensor, t: float, condition: Tensor, /) -> Tensor:
        """v(x, t) under the rows' conditions, of x's shape."""


@dataclass(frozen=True, slots=True)
class SamplerStep:
    """What an observer sees after a step.

    Attributes:
        step: The number of the step, 1 for the first.
        steps: How many steps there are.
        t: The time at which the velocity was taken.
        x: The state after the step, [B, 3, H, W].
        estimate: The clean-image estimate x_t - t v, [B, 3, H, W], not clipped.
    """

    step: int
    steps: int
    t: float
    x: Tensor = field(repr=False)
    estimate: Tensor = field(repr=False)


Observer = Callable[[SamplerStep], None]


def time_grid(config: SamplerConfig) -> tuple[float, ...]:
    """The N + 1 times from 1.0 down to 0.0 that Euler's method visits."""
    if config.schedule == "explicit":
        return config.times
    exponent = 1.0 if config.schedule == "linear" else 1.0 / config.rho
    steps = config.steps
    if config.schedule == "merged":
        steps += MERGED_STEPS - 1
    grid = tuple((i / steps) ** exponent for i in range(steps, -1, -1))
    return (*grid[: config.steps], 0.0)


def guidance_bounds(config: SamplerConfig) -> tuple[float, float]:
    """The guidance interval in rectified-flow time: t = sigma / (1 + sigma)."""
    low, high = config.guidance_interval
    return low / (1 + low), high / (1 + high)


def is_guided(t: float, config: SamplerConfig) -> bool:
    """Whether the step that starts at ``t`` needs the null condition too."""
    low, high = guidance_bounds(config)
    return config.guidance != 1.0 and low <= t <= high


def count_forwards(config: SamplerConfig) -> int:
    """Network evaluations an image, guided steps counting twice."""
    times = time_grid(config)[:-1]
    return len(times) + sum(is_guided(t, config) for t in times)


def guided(
    velocity: ConditionalVelocity, condition: Tensor, null: Tensor, config: SamplerConfig
) -> Velocity:
    """Classifier-free guidance in an interval: v_null + w (v_cond - v_null), else v_cond.

    A guided step is one call with twice the rows, never two calls.

    Args:
        velocity: The network.
        condition: [B, ...], one row for each image.
        null: The null condition, in the same shape.
        config: Guidance weight and interval.
    """
    both = torch.cat([condition, null])

    def field(x: Tensor, t: float) -> Tensor:
        if not is_guided(t, config):
            return velocity(x, t, condition)
        v_cond, v_null = velocity(torch.cat([x, x]), t, both).chunk(2)
        return v_null + config.guidance * (v_cond - v_null)

    return field


def euler(
    velocity: Velocity,
    start: Tensor,
    times: Sequence[float],
    *,
    observer: Observer | None = None,
) -> Tensor:
    """Integrate dx/dt = v from times[0] to times[-1]: x <- x - (t_i - t_{i-1}) v(x, t_i).

    Gradients flow through every step when ``start`` or the field asks for them.

    Args:
        velocity: The velocity field.
        start: The state at times[0].
        times: Strictly descending times, at least two.
        observer: A function that is called after each step.

    Raises:
        ConfigError: The times do not descend.
    """
    if len(times) < 2 or any(a <= b for a, b in pairwise(times)):
        raise ConfigError(f"sampling times must descend and be at least two, got {tuple(times)!r}")
    x = start
    for step, (t, t_next) in enumerate(pairwise(times), start=1):
        v = velocity(x, t)
        estimate = None if observer is None else x - t * v
        x = x - (t - t_next) * v
        if observer is not None and estimate is not None:
            observer(SamplerStep(step=step, steps=len(times) - 1, t=t, x=x, estimate=estimate))
    return x


def noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Unit normal noise, each row from its own seed and the shape alone.

    Made on the CPU, so it is the same whatever device decodes and whatever else is in the batch.

    Args:
        seeds: One seed for each image, 0 <= seed < 2^63.
        shape: The shape of one row, e.g. (3, 256, 256).

    Returns:
        Float32 [len(seeds), *shape] on the CPU.

    Raises:
        ConfigError: A seed is out of range.
    """
    rows = []
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"a seed is a whole number from 0 to 2^63 - 1, got {seed!r}")
        rows.append(torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)))
    if len(rows) == 1:
        return rows[0][None]  # of a large picture a copy is hundreds of megabytes
    return torch.stack(rows) if rows else torch.empty((0, *shape))
