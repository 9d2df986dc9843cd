"""Exponential moving average of the weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flowmo.training.loop.sharding import local


class WeightEMA:
    """shadow <- d shadow + (1 - d) weight after every step, in float32.

    Args:
        model: its current weights are the first average.
        decay: d.
        ramp: use min(d, (1 + step) / (10 + step)), so that a short run forgets its random start.
        half_life: With a value h, d is (1 - 1 / step)^a with (1 - h)^a = 1/2 instead: after n steps
            half of the average is of the last h n (the power function of Karras et al., "Analyzing
            and Improving the Training Dynamics of Diffusion Models", section 3.1).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decay: float,
        ramp: bool = False,
        half_life: float | None = None,
    ) -> None:
        self._decay = decay
        self._ramp = ramp
        self._exponent = None if half_life is None else -1 / math.log2(1 - half_life)
        self._parameters = dict(model.named_parameters())
        self.shadow: dict[str, Tensor] = {
            name: p.detach().float().clone() for name, p in self._parameters.items()
        }
        self._held = [local(shadow) for shadow in self.shadow.values()]

    def decay_at(self, step: int) -> float:
        """d of the update after ``step`` (counted from 1)."""
        if self._exponent is not None:
            return float((1 - 1 / step) ** self._exponent)
        return min(self._decay, (1 + step) / (10 + step)) if self._ramp else self._decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step``."""
        weights = [local(p.detach()) for p in self._parameters.values()]
        torch._foreach_lerp_(self._held, weights, 1.0 - self.decay_at(step))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within it the model has the averaged weights, and the average the model's."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # Contents, not storages: sharded weights are views of buffers that must stay where they
        # are. One tensor at a time needs little memory.
        for parameter, shadow in zip(self._parameters.values(), self._held, strict=True):
            weight = local(parameter.detach())
            kept = weight.clone()
            weight.copy_(shadow)
            shadow.copy_(kept)
