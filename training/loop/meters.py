"""Averages between two log lines."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
        # Fewer than steps after a resume: the time of those before was another process's.
        self._timed_steps = 0
        self._images = 0
        self._data_seconds = 0.0
        self._step_seconds = 0.0

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar's share of this step."""
        held = self._sums.get(name)
        # A sum that was loaded is on the CPU.
        value = value.float()
        self._sums[name] = value.clone() if held is None else held.to(value.device).add_(value)

    def count(self, *, learning_rate: float) -> None:
        """End a step's sums."""
        self._steps += 1
        self._latest["learning_rate"] = learning_rate

    def time(self, *, data: float, step: float, images: int) -> None:
        """Add a step's seconds: waiting for data, and altogether."""
        self._data_seconds += data
        self._step_seconds += step
        self._timed_steps += 1
        self._images += images

    def state(self) -> dict[str, Any]:
        """Sums and number of the steps since the last log line, JSON-safe and exact."""
        names = list(self._sums)
        sums = torch.stack([self._sums[n].double() for n in names]).tolist() if names else []
        return {"steps": self._steps, "sums": dict(zip(names, sums, strict=True))}

    def load_state(self, states: Sequence[Mapping[str, Any]], rank: int, size: int) -> None:
        """Continue from :meth:`state`.

        Args:
            states: The states of every process of the run that saved them.
            rank: The rank of this process; it takes over its own sums, and the mean of all where
                the number of processes is another.
            size: The number of processes now.
        """
        chosen = [states[rank]] if len(states) == size else states
        self._steps = chosen[0]["steps"]
        self._sums = {
            name: torch.tensor(math.fsum(s["sums"][name] for s in chosen) / len(chosen))
            for name in chosen[0]["sums"]
        }

    def take(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over the steps since the last call; empties the sums.

        Args:
            over_processes: the mean over the processes of a vector; their names are the same.
        """
        steps, seconds = max(self._steps, 1), max(self._step_seconds, 1e-9)
        names = list(self._sums)
        sums = over_processes(torch.stack([self._sums[n] for n in names])).tolist() if names else []
        values = {name: value / steps for name, value in zip(names, sums, strict=True)}
        values |= self._latest
        values |= {
            "images_per_second": self._images / seconds,
            "step_ms": 1000 * seconds / max(self._timed_steps, 1),
            "data_ms": 1000 * self._data_seconds / max(self._timed_steps, 1),
            "data_share": self._data_seconds / seconds,
        }
        self._reset()
        return values
