"""A whole decode as one function of tensors: every time's modulation is known before it begins.

Shape legend: B rows, K latent tokens, D bits a token, M numbers of modulation a row.
"""

from typing import Protocol

import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.sampler import Observer, euler, guided, time_grid


class ModulatedVelocity(Protocol):
    """A network's velocity, with the modulation of its time already looked up."""

    def __call__(self, x: Tensor, modulation: Tensor, condition: Tensor, /) -> Tensor:
        """The velocity at x [B, 3, H, W]: modulation [1, M], condition [B, K, D + 1]."""


def decode_modulated(
    velocity: ModulatedVelocity,
    start: Tensor,
    condition: Tensor,
    modulation: Tensor,
    sampler: SamplerConfig,
    *,
    observer: Observer | None = None,
) -> Tensor:
    """Integrate from noise to images; nothing in it waits for the device or reads from it.

    Args:
        velocity: The network.
        start: Unit normal noise [B, 3, H, W].
        condition: [B, K, D + 1]: the quantized code and a mask channel.
        modulation: [N, M] of the N times that are evaluated: all of the sampler's but the last.
        sampler: Time grid and guidance.
        observer: A function that sees each step.

    Returns:
        Float32 [B, 3, H, W], clipped to [-1, 1].
    """
    times = time_grid(sampler)
    table = dict(zip(times[:-1], modulation.split(1), strict=True))

    def at(x: Tensor, t: float, rows: Tensor) -> Tensor:
        return velocity(x, table[t], rows)

    field = guided(at, condition, torch.zeros_like(condition), sampler)
    return euler(field, start, times, observer=observer).clamp(-1, 1)
