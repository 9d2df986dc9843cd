"""Answers that were already made, and answers that somebody else is waiting for already.

The same tokens, seed, options and weights give the same picture, so a picture can be kept, and
several requests for it can share one decode.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from flowmo.service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    QueueFullError,
)

T = TypeVar("T")

# hit: was kept; shared: another request was making it; miss: this request made it.
Outcome = Literal["hit", "shared", "miss"]

# What kept another request from its answer need not keep this one, whose deadline is its own.
_ITS_OWN = (DeadlineExceededError, DeadlineUnreachableError, QueueFullError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept(Generic[T]):
    """Something to keep.

    Attributes:
        value: it.
        size: in bytes; None is not kept.
    """

    value: T
    size: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[T]):
    """A value, and how it was come by."""

    value: T
    outcome: Outcome


@dataclass(eq=False, slots=True)
class _Flight(Generic[T]):
    key: Hashable
    task: asyncio.Task[Kept[T]]
    waiters: int = 0


@dataclass(eq=False, slots=True)
class SharedCache(Generic[T]):
    """A cache with single flight, bounded in bytes; the least recently used goes first.

    Used from the event loop's thread only.

    Args:
        max_bytes: of all values together; 0 keeps nothing, and shares nothing.
    """

    max_bytes: int
    size: int = 0
    _kept: OrderedDict[Hashable, Kept[T]] = field(default_factory=OrderedDict)
    _flights: dict[Hashable, _Flight[T]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._kept)

    async def get(
        self, key: Hashable, make: Callable[[], Coroutine[None, None, Kept[T]]]
    ) -> Found[T]:
        """The value of a key, made at most once at a time.

        The making goes on until the last request that waits for it has left.

        Args:
            key: everything that the value depends on.
            make: the value, when it is neither kept nor under way.

        Raises:
            Exception: what ``make`` raised.
        """
        if not self.max_bytes:
            return Found(value=(await make()).value, outcome="miss")
        while True:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return Found(value=kept.value, outcome="hit")
            if (flight := self._flights.get(key)) is None:
                made = await self._wait(self._take_off(key, make))
                return Found(value=made.value, outcome="miss")
            try:
                return Found(value=(await self._wait(flight)).value, outcome="shared")
            except _ITS_OWN:
                continue

    def _take_off(
        self, key: Hashable, make: Callable[[], Coroutine[None, None, Kept[T]]]
    ) -> _Flight[T]:
        flight = self._flights[key] = _Flight(key, asyncio.create_task(make()))

        def land(task: asyncio.Task[Kept[T]]) -> None:
            self._forget(flight)
            if not task.cancelled() and task.exception() is None:
                self._keep(key, task.result())

        flight.task.add_done_callback(land)
        return flight

    async def _wait(self, flight: _Flight[T]) -> Kept[T]:
        flight.waiters += 1
        try:
            # Shielded: one that leaves must not take the value from the others.
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters:
                flight.task.cancel()
                self._forget(flight)  # now: nobody may join what is being cancelled

    def _forget(self, flight: _Flight[T]) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _keep(self, key: Hashable, kept: Kept[T]) -> None:
        if kept.size is None or kept.size > self.max_bytes:
            return
        self._kept[key] = kept
        self.size += kept.size
        while self.size > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            assert oldest.size is not None
            self.size -= oldest.size
