"""Reading uploaded pictures, a bounded number at a time and each for a bounded time."""

import asyncio
import math
import time

from flowmo.cores import usable_cores
from flowmo.imaging.reading import ImageTooLargeError
from flowmo.imaging.worker import SquareImage, SquareRequest, WorkerProcess
from flowmo.service.engine.calls import Call
from flowmo.service.errors import DeadlineExceededError
from flowmo.service.http.stage_clock import StageClock

# A picture that nobody waits for any more may go on so long: ending its process costs a new one.
_GRACE_SECONDS = 1.0
# Pictures that one process reads, and writes, at once if nobody says.
MOST_IMAGES = 16


def default_image_threads() -> int:
    """One for each core that this process may use, at least 2 and at most 16."""
    return min(max(2, usable_cores()), MOST_IMAGES)


class ImageReaders:
    """Processes that read pictures; used from the event loop's thread only.

    A process is started when a picture finds none idle, and stays for the next one. Whoever leaves,
    or whose deadline passes, gives up waiting at once; what nobody waits for is not begun, and what
    takes too long is ended.

    Args:
        limit: The most pictures that are read at once.
        seconds: The longest time for one picture.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._seconds = seconds
        self._idle: list[WorkerProcess] = []
        self._reading: set[asyncio.Task[SquareImage]] = set()
        self._closed = False

    async def read(
        self, data: bytes, request: SquareRequest, clock: StageClock, call: Call
    ) -> SquareImage:
        """Read a file and fit it to a square, as soon as a slot is free.

        Args:
            data: The bytes of an image file.
            request: How it is read.
            clock: The clock of the request that needs it.
            call: The deadline of that request.

        Raises:
            ImageError: The file is no image that can be used.
            ImageTooLargeError: It takes longer than one may.
            DeadlineExceededError: It was not read by the deadline.
        """
        try:
            async with asyncio.timeout(None if math.isinf(call.remaining) else call.remaining):
                await self._slots.acquire()
                begin = time.perf_counter()
                # It keeps its slot until it has ended, whoever waits for it.
                abandoned = asyncio.Event()
                task = asyncio.create_task(self._read(data, request, abandoned))
                self._reading.add(task)
                task.add_done_callback(self._release)
                try:
                    square = await asyncio.shield(task)
                finally:
                    abandoned.set()
        except TimeoutError:
            raise DeadlineExceededError("the picture was not read by the deadline") from None
        clock.add({"decode_image": time.perf_counter() - begin})
        return square

    async def _read(
        self, data: bytes, request: SquareRequest, abandoned: asyncio.Event
    ) -> SquareImage:
        worker = await self._worker()
        work = asyncio.create_task(asyncio.to_thread(worker.read, data, request))
        left = asyncio.create_task(abandoned.wait())
        begin = time.perf_counter()
        await asyncio.wait({work, left}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
        if left.done() and not work.done():
            grace = min(_GRACE_SECONDS, self._seconds) - (time.perf_counter() - begin)
            await asyncio.wait({work}, timeout=max(0.0, grace))
        left.cancel()
        late = not work.done()
        if late:
            worker.kill()  # which ends the thread's wait
        try:
            return await work
        except Exception:
            if late:
                raise ImageTooLargeError(
                    f"the image takes more than {self._seconds:g} s to decode; save it again as an "
                    f"ordinary JPEG or PNG, or scale it down"
                ) from None
            raise
        finally:
            if self._closed or not worker.alive:
                await asyncio.to_thread(worker.end)
            else:
                self._idle.append(worker)

    async def _worker(self) -> WorkerProcess:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            await asyncio.to_thread(worker.end)
        return await asyncio.to_thread(WorkerProcess)

    def _release(self, task: "asyncio.Task[SquareImage]") -> None:
        self._slots.release()
        self._reading.discard(task)
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits for it any more

    async def close(self) -> None:
        """End the processes; those at work when they have finished."""
        self._closed = True
        if self._reading:  # whom nobody waits for any more
            await asyncio.wait(self._reading)
        while self._idle:
            await asyncio.to_thread(self._idle.pop().end)
