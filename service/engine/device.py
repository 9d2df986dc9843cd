"""One thread owns the device; the engines of a model take turns on it.

Everything that other threads and the device thread both touch is guarded by one lock,
:attr:`DeviceThread.changed`. Batches run outside it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from flowmo.service.engine.health import DeviceHealth

logger = logging.getLogger(__name__)

# A device that has been busy with one batch for so long, and for so many times the slowest batch
# it was measured with, is taken for stuck.
STUCK_SECONDS = 30.0
STUCK_BATCHES = 20.0
_IDLE_BEAT = 1.0


class Worker(Protocol):
    """Something that has batches to run."""

    def warm_up(self) -> float:
        """Make later batches quick, and measure them.

        Returns:
            The seconds of the slowest batch.
        """
        ...

    def due(self) -> float | None:
        """The time at which the worker wants the device; the lock is held.

        Returns:
            A time in seconds of ``time.monotonic()``, or None if there is nothing to run.
        """
        ...

    def run(self) -> None:
        """Run one batch. The lock is not held."""
        ...

    def abandon(self) -> None:
        """Refuse everything that waits: the device thread has ended. The lock is held."""
        ...


class DeviceThread:
    """The thread that owns the device.

    Args:
        within: What the thread enters first and leaves last, such as
            :func:`flowmo.service.engine.streams.own_stream`; used once.
        warmed: Called in the thread when the workers are warm, before it counts as ready.
        stuck_seconds: The age, in seconds, from which a batch may count as stuck; it must also have
            run for :data:`STUCK_BATCHES` times the slowest one measured.

    Attributes:
        changed: The lock; notified when a worker has more to do, or the thread is to end.
        health: What the workers' batches ended with lately; the workers note it there.
    """

    def __init__(
        self,
        within: AbstractContextManager[None] | None = None,
        *,
        warmed: Callable[[], None] | None = None,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._within = within or nullcontext()
        self._warmed = warmed
        self.changed = threading.Condition()
        self.health = DeviceHealth()
        self._workers: Sequence[Worker] = ()
        self._stuck_seconds = stuck_seconds
        self._slowest = 0.0
        self._warm = False
        self._closing = False
        self._ended = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._main, name="flowmo-device", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether the workers are warmed up and the thread is working."""
        return self._warm and self.alive

    @property
    def alive(self) -> bool:
        """Whether the thread runs, its device answers, and what it answers is not only errors."""
        return self.complaint is None

    @property
    def complaint(self) -> str | None:
        """Why the device is not alive; None when it is."""
        if (complaint := self.health.complaint) is not None:
            return complaint
        if self._ended or not self._thread.is_alive():
            return "the device thread has ended"
        if self.stuck:
            return f"the device has been busy with one batch for {self.busy_seconds:.0f} s"
        return None

    @property
    def ended(self) -> bool:
        """Whether the thread takes no more work."""
        return self._ended

    @property
    def busy_seconds(self) -> float:
        """The age of the batch that runs now, in seconds; 0 when the device is idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def stuck(self) -> bool:
        """Whether one batch takes so long that the device must be taken for dead."""
        limit = max(self._stuck_seconds, STUCK_BATCHES * self._slowest)
        return self._warm and self.busy_seconds > limit

    def start(self, workers: Sequence[Worker]) -> None:
        """Start the thread, in which the workers warm up first. Work may be submitted at once.

        Args:
            workers: The engines that take turns on the device.
        """
        self._workers = workers
        self._thread.start()

    async def close(self, seconds: float) -> None:
        """Finish the work inside, then end.

        Args:
            seconds: The longest wait for it; what is not done then is refused.
        """
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        await asyncio.to_thread(self._thread.join, seconds)
        if self._thread.is_alive():
            with self.changed:
                self._end()

    def _main(self) -> None:
        try:
            with self._within:
                self._work()
        except Exception:
            logger.exception("the device thread has ended")
        finally:
            with self.changed:
                self._end()

    def _work(self) -> None:
        self._slowest = max(worker.warm_up() for worker in self._workers)
        if self._warmed is not None:
            self._warmed()
        self._warm = True
        while (worker := self._next()) is not None:
            self._busy_since = time.monotonic()
            try:
                worker.run()
            finally:
                self._busy_since = None
            if self.health.lost:
                return  # what waits must go elsewhere, and not fail batch after batch

    def _end(self) -> None:
        self._ended = True
        for worker in self._workers:
            worker.abandon()

    def _next(self) -> Worker | None:
        """Wait for the worker whose turn it is; None ends the thread."""
        with self.changed:
            while not self._ended:
                now = time.monotonic()
                due = [(at, worker) for worker in self._workers if (at := worker.due()) is not None]
                if not due and self._closing:
                    return None
                for at, worker in due:
                    if at <= now or self._closing:
                        # The others go first the next time.
                        others = [w for w in self._workers if w is not worker]
                        self._workers = (*others, worker)
                        return worker
                wait = min((at - now for at, _ in due), default=_IDLE_BEAT)
                self.changed.wait(wait)
            return None
