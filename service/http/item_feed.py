"""The items of batch requests, let to the engines as their queues have room."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from flowmo.service.engine.calls import Call
from flowmo.service.engine.shared_calls import until_deadline
from flowmo.service.errors import DeadlineExceededError, QueueFullError

R = TypeVar("R")

# Seconds between the tries of an item that found a queue full.
_PAUSE = 0.1


def item_capacity(max_queued_requests: int, max_concurrent_requests: int) -> int:
    """Choose how many items of batches may be at the engines at once.

    Args:
        max_queued_requests: The pictures that may be inside an engine.
        max_concurrent_requests: The requests that may be inside, each of which may be one picture.

    Returns:
        What leaves room in the engines' queues for as many single pictures as there may be, but at
        least half of a queue.
    """
    return max(1, max_queued_requests // 2, max_queued_requests - max_concurrent_requests)


class ItemFeed:
    """Lets a bounded number of items be worked on at once; the others wait in their order.

    Guaranteed to an item: a full queue is not its error, it is tried until its deadline. Guaranteed
    to single pictures: items leave them room in the engines' queues.

    Args:
        capacity: How many items may be worked on at once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._room = asyncio.Semaphore(capacity)

    async def run(self, call: Call, work: Callable[[], Awaitable[R]]) -> R:
        """Do the work of an item when there is room.

        Args:
            call: The deadline until which the item waits.
            work: Does the work.

        Raises:
            DeadlineExceededError: The item's turn did not come in time.
            Exception: Whatever ``work`` raised.
        """
        try:
            async with until_deadline(call):
                await self._room.acquire()
        except TimeoutError:
            raise DeadlineExceededError("the item's turn had not come by the deadline") from None
        try:
            return await work()
        finally:
            self._room.release()


async def when_there_is_room(call: Call, work: Callable[[Call], Awaitable[R]]) -> R:
    """Do something that an engine with a full queue refuses as soon as it does not any more.

    Args:
        call: The deadline until which it is tried.
        work: Does it, for the most demanding call of those that wait for it by then.

    Raises:
        DeadlineExceededError: There was no room by the deadline.
        Exception: Whatever else ``work`` raised.
    """
    while True:
        now = call if call.shared is None else call.shared.call
        try:
            return await work(now)
        except QueueFullError as error:
            if now.remaining <= _PAUSE:
                raise DeadlineExceededError(f"there was no room by the deadline: {error}") from None
        await asyncio.sleep(_PAUSE)
