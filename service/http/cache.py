"""A cache of answers, in which requests also share an answer that is just being made.

The same tokens, seed, options and weights give the same picture, so a picture can be cached, and
several requests for it can share one decode. What they share is as urgent as the most demanding of
them; each gives it up by its own deadline.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from flowmo.service.engine.calls import Call
from flowmo.service.engine.shared_calls import SharedCall
from flowmo.service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    QueueFullError,
)

T = TypeVar("T")

# hit: there was an entry; shared: another request was making it; miss: this request made it.
CacheOutcome = Literal["hit", "shared", "miss"]

# What another request failed by need not fail this one, whose deadline is its own.
_ITS_OWN = (DeadlineExceededError, DeadlineUnreachableError, QueueFullError)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry(Generic[T]):
    """One entry of the cache.

    Attributes:
        value: The cached value.
        size: The memory that the entry takes, in bytes; None for a value that is not to be cached.
    """

    value: T
    size: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheResult(Generic[T]):
    """What the cache gave.

    Attributes:
        value: The value that was asked for.
        outcome: Whether it was there, was being made for another request, or was made for this one.
    """

    value: T
    outcome: CacheOutcome


# Makes a value for as long and as urgently as a call says.
Make = Callable[[Call], Coroutine[None, None, CacheEntry[T]]]


@dataclass(eq=False, slots=True)
class _Flight(Generic[T]):
    key: Hashable
    shared: SharedCall
    task: asyncio.Task[CacheEntry[T]]
    # By this time it was admitted to be done, whoever has joined since.
    promised: float
    waiters: int = 0


@dataclass(eq=False, slots=True)
class SharedCache(Generic[T]):
    """A cache with single flight, bounded in bytes; the least recently used entry goes first.

    Used from the event loop's thread only.

    Attributes:
        max_bytes: The most memory of all entries together; 0 caches nothing, and shares nothing.
        size: The memory of all entries now, in bytes.
    """

    max_bytes: int
    size: int = 0
    _entries: OrderedDict[Hashable, CacheEntry[T]] = field(default_factory=OrderedDict)
    _flights: dict[Hashable, _Flight[T]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    async def get(
        self, key: Hashable, make: Make[T], call: Call, *, impatient: bool = False
    ) -> CacheResult[T]:
        """Look a value up, or make it, at most once at a time.

        A value is made until the last request that waits for it has left.

        Args:
            key: Everything that the value depends on.
            make: Makes the value; called when it is neither cached nor being made. Its call rises
                as others come to wait for the same value.
            call: How long the caller waits, and how urgently.
            impatient: Whether the caller would rather make the value itself, or learn that it
                cannot, than wait for one that need not be there by its deadline.

        Raises:
            Exception: Whatever ``make`` raised.
        """
        if not self.max_bytes:
            return CacheResult(value=(await make(call)).value, outcome="miss")
        while True:
            if (entry := self._entries.get(key)) is not None:
                self._entries.move_to_end(key)
                return CacheResult(value=entry.value, outcome="hit")
            if (flight := self._flights.get(key)) is None:
                made = await self._wait(self._take_off(key, make, call))
                return CacheResult(value=made.value, outcome="miss")
            if impatient and call.deadline < flight.promised:
                made = await make(call)
                self._insert(key, made)
                return CacheResult(value=made.value, outcome="miss")
            flight.shared.join(call)
            try:
                return CacheResult(value=(await self._wait(flight)).value, outcome="shared")
            except _ITS_OWN:
                # It may have failed just now and not have landed: asked again it would fail at
                # once, and again, and nothing else would run meanwhile.
                self._forget(flight)

    def _take_off(self, key: Hashable, make: Make[T], call: Call) -> _Flight[T]:
        shared = SharedCall(call)
        task = asyncio.create_task(make(shared.call))
        flight = self._flights[key] = _Flight(key, shared, task, call.deadline)

        def land(task: asyncio.Task[CacheEntry[T]]) -> None:
            self._forget(flight)
            if not task.cancelled() and task.exception() is None:
                self._insert(key, task.result())

        flight.task.add_done_callback(land)
        return flight

    async def _wait(self, flight: _Flight[T]) -> CacheEntry[T]:
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

    def _insert(self, key: Hashable, entry: CacheEntry[T]) -> None:
        if entry.size is None or entry.size > self.max_bytes:
            return
        # Two may have made it: one that all had left when it was done, and its successor.
        self._remove(self._entries.pop(key, None))
        self._entries[key] = entry
        self.size += entry.size
        while self.size > self.max_bytes:
            self._remove(self._entries.popitem(last=False)[1])

    def _remove(self, entry: CacheEntry[T] | None) -> None:
        if entry is not None:
            assert entry.size is not None
            self.size -= entry.size
