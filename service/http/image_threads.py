"""Threads that encode image files, away from the event loop."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from flowmo.service.http.stage_clock import StageClock

T = TypeVar("T")


class ImageThreads:
    """Runs work on image files, a bounded number at a time: it is what may take much memory.

    Used from the event loop's thread only.

    Args:
        limit: How many images may be encoded at once, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)

    async def run(self, work: Callable[[], T], stage: str, clock: StageClock) -> T:
        """Run ``work`` in a thread as soon as a slot is free.

        Args:
            work: A function that encodes one image.
            stage: The name under which ``clock`` counts the work's time.
            clock: The clock of the request that needs the result.

        Returns:
            The work's result.
        """
        await self._slots.acquire()
        begin = time.perf_counter()
        task = asyncio.create_task(asyncio.to_thread(work))
        # A thread cannot be cancelled: whoever leaves it behind does not free its slot.
        task.add_done_callback(self._release)
        result = await asyncio.shield(task)
        clock.add({stage: time.perf_counter() - begin})
        return result

    def _release(self, task: "asyncio.Task[T]") -> None:
        self._slots.release()
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits for it any more
