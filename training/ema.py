"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightEMA:
    """shadow <- d shadow + (1 - d) weight after every step, in float32.

    Args:
        model: its current weights are the first average.
        decay: d.
        ramp: use min(d, (1 + step) / (10 + step)), so that a short run forgets its random start.
    """

    def __init__(self, model: nn.Module, *, decay: float, ramp: bool = False) -> None:
        self._decay = decay
        self._ramp = ramp
        self._parameters = dict(model.named_parameters())
        self.shadow: dict[str, Tensor] = {
            name: p.detach().float().clone() for name, p in self._parameters.items()
        }

    def decay_at(self, step: int) -> float:
        """d of the update after ``step`` (counted from 1)."""
        return min(self._decay, (1 + step) / (10 + step)) if self._ramp else self._decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step``."""
        weights = [p.detach() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.shadow.values()), weights, 1.0 - self.decay_at(step))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within it the model has the averaged weights; neither copy is written or copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self.shadow[name] = self.shadow[name], parameter.data

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved :attr:`shadow`."""
        for name, tensor in self.shadow.items():
            tensor.copy_(state[name])
