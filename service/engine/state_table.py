"""The states of all decodes that have begun, as one tensor on the device."""

import heapq
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Sequence[float], Tensor], Tensor]

# Lists of slots that are kept on the device.
_INDICES = 32


class EulerStep(NamedTuple):
    """One step of one decode.

    Attributes:
        slot: The decode's slot in the table.
        t: The time that the step starts at.
        t_next: The time that it ends at.
        guidance: The guidance weight of a step of two rows; None for one of one row.
        estimate: Whether the clean-image estimate after the step is wanted.
    """

    slot: int
    t: float
    t_next: float
    guidance: float | None = None
    estimate: bool = False


class StateTable:
    """States and conditions in slots; used from the device thread.

    A step of a batch is a handful of operations, however many rows it has, and none of them waits
    for the device. Each value is computed by the same operations whatever else is in the batch, so
    what differs between batches is the network's rounding alone.

    Args:
        device: Where the table lies.
        slots: How many slots there are at first; there will be more when they are needed.
    """

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device, self._slots = device, slots
        self._free = list(range(slots))
        self._x: Tensor | None = None
        self._conditions: Tensor | None = None  # the first is the null condition
        # Lists of slots on the device: batches stay the same from tick to tick.
        self._indices: dict[tuple[tuple[int, ...], ...], Tensor] = {}

    def put(self, x: Tensor, condition: Tensor) -> int:
        """Take a decode in.

        Args:
            x: Its noise, float32 [3, S, S], on the device or in pinned memory.
            condition: Its condition, [K, D + 1], likewise.

        Returns:
            The slot that it has until it is released.
        """
        if self._x is None:
            self._x = x.new_empty((self._slots, *x.shape), device=self._device)
            shape = (1 + self._slots, *condition.shape)
            self._conditions = condition.new_zeros(shape, device=self._device)
        if not self._free:
            self._grow()
        slot = heapq.heappop(self._free)
        _present(self._x)[slot].copy_(x, non_blocking=True)
        _present(self._conditions)[1 + slot].copy_(condition, non_blocking=True)
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back; what the device has been asked to do with it before is not changed."""
        heapq.heappush(self._free, slot)

    def _grow(self) -> None:
        x, conditions = _present(self._x), _present(self._conditions)
        self._x = torch.cat([x, torch.empty_like(x)])
        self._conditions = torch.cat([conditions, torch.zeros_like(conditions[1:])])
        self._free = list(range(self._slots, 2 * self._slots))
        self._slots *= 2

    def states(self, slots: Sequence[int]) -> Tensor:
        """The states in some slots, float32 [len(slots), 3, S, S]."""
        return self._rows(_present(self._x), slots)

    def step(self, steps: Sequence[EulerStep], bucket: int, velocity: Velocity) -> list[Tensor]:
        """Make one Euler step of each decode in a batch: x <- x - (t - t_next) v.

        Args:
            steps: The steps, those with guidance first, each group best by its slots.
            bucket: The rows of the batch; those beyond the steps' own repeat the last.
            velocity: The network: states [B, 3, S, S], B times and conditions to velocities.

        Returns:
            The clean-image estimates x - t v that are wanted, in the steps' order, [3, S, S] each.
        """
        table, conditions = _present(self._x), _present(self._conditions)
        slots = [step.slot for step in steps]
        times = [step.t for step in steps]
        weights = [step.guidance for step in steps if step.guidance is not None]
        n, guided = len(steps), len(weights)
        is_run = slots[-1] - slots[0] == n - 1 and _is_run(slots)
        if n == bucket and is_run:
            first = slots[0]
            x, rows = table[first : first + n], conditions[1 + first : 1 + first + n]
        elif n == bucket:
            index = self._index(tuple(slots), tuple(1 + slot for slot in slots))
            x, rows = table.index_select(0, index[0]), conditions.index_select(0, index[1])
        else:
            padding = bucket - n - guided
            last = (slots[:guided] or slots)[-1:]
            index = self._index(
                (*slots, *slots[:guided], *last * padding),
                (*(1 + slot for slot in slots), *[0] * guided, *[1 + last[0]] * padding),
            )
            x, rows = table.index_select(0, index[0]), conditions.index_select(0, index[1])
            times += times[:guided]
            times += times[-1:] * padding
        v = velocity(x, times, rows)
        own = v if n == bucket else v[:n]
        if guided:
            null = v[n : n + guided]
            own = null + self._factors(weights) * (v[:guided] - null)
            if guided < n:
                own = torch.cat([own, v[guided:n]])
        estimates = [x[i] - step.t * own[i] for i, step in enumerate(steps) if step.estimate]
        change = self._factors([step.t - step.t_next for step in steps]) * own
        if n == bucket and is_run:
            x.sub_(change)
        elif is_run:
            table[slots[0] : slots[0] + n].sub_(change)
        else:
            table.index_copy_(0, self._index(tuple(slots))[0], x[:n] - change)
        return estimates

    def _rows(self, table: Tensor, slots: Sequence[int]) -> Tensor:
        if _is_run(slots):
            return table[slots[0] : slots[0] + len(slots)]
        return table.index_select(0, self._index(tuple(slots))[0])

    def _index(self, *slots: tuple[int, ...]) -> Tensor:
        """Lists of slots, of one length, as a tensor on the device."""
        if (index := self._indices.get(slots)) is None:
            if len(self._indices) >= _INDICES:
                self._indices.clear()
            index = torch.tensor(slots).to(self._device, non_blocking=True)
            self._indices[slots] = index
        return index

    def _factors(self, values: list[float]) -> Tensor | float:
        """Numbers to multiply rows with: one for each, rounded to float32."""
        first = values[0]
        if values.count(first) == len(values):
            return first
        host = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
        return host.to(self._device, non_blocking=True)


def _is_run(slots: Sequence[int]) -> bool:
    """Whether slots follow each other, so that a view has their rows."""
    return slots[-1] - slots[0] == len(slots) - 1 and all(b - a == 1 for a, b in pairwise(slots))


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
