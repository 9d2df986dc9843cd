"""Averages between two log lines."""

import torch
from torch import Tensor


class Meters:
    """Sums numbers on the device, so that no step waits for one to arrive."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._latest: dict[str, float] = {}
        self._steps = 0
        self._images = 0
        self._data_seconds = 0.0
        self._step_seconds = 0.0

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar's share of this step."""
        held = self._sums.get(name)
        self._sums[name] = value.clone() if held is None else held.add_(value)

    def count(self, *, learning_rate: float) -> None:
        """End a step's sums."""
        self._steps += 1
        self._latest["learning_rate"] = learning_rate

    def time(self, *, data: float, step: float, images: int) -> None:
        """Add a step's seconds: waiting for data, and altogether."""
        self._data_seconds += data
        self._step_seconds += step
        self._images += images

    def take(self) -> dict[str, float]:
        """Means over the steps since the last call; empties the sums."""
        steps, seconds = max(self._steps, 1), max(self._step_seconds, 1e-9)
        names = list(self._sums)
        sums = torch.stack([self._sums[n].float() for n in names]).tolist() if names else []
        values = {name: value / steps for name, value in zip(names, sums, strict=True)}
        values |= self._latest
        values |= {
            "images_per_second": self._images / seconds,
            "step_ms": 1000 * seconds / steps,
            "data_ms": 1000 * self._data_seconds / steps,
            "data_share": self._data_seconds / seconds,
        }
        self._reset()
        return values
