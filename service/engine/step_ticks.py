"""The ticks of an engine of steps that the device was given: their end, and failures.

The device is given a tick while it makes the one before, so that it never waits for the host. What
a tick changes, it changes in the order of the calls: the next one may be given at once. What it
hands over, results and progress, it hands over when its marker is reached.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.failures import release_memory
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.observer import EngineKind, EngineObserver
from flowmo.service.engine.runner import Marker
from flowmo.service.engine.schedule import BucketTimes
from flowmo.service.engine.step_work import StepWork
from flowmo.service.engine.work import without_bucket
from flowmo.service.errors import ComputeError

logger = logging.getLogger(__name__)

# A guided step is two rows of one tick, so a runner must compute at least two.
MIN_ROWS = 2

W = TypeVar("W", bound=StepWork[Any])


@dataclass(eq=False, slots=True, kw_only=True)
class StepTick(Generic[W]):
    """A tick that the device was given.

    Attributes:
        batch: The work that has rows in it.
        bucket: The size of the batch.
        rows: The rows of it that are no padding.
        begun: The time at which the device was given it.
        done: The work whose last step it makes.
        marker: Is reached when the device has done it; None when it has.
    """

    batch: Sequence[W]
    bucket: int
    rows: int
    begun: float
    done: Sequence[W]
    marker: Marker | None


K = TypeVar("K", bound=StepTick[Any])


class StepTicks(ABC, Generic[W, K]):
    """The ticks in flight, used from the device thread.

    Args:
        device: The thread; its lock guards ``works``.
        observer: Is notified of what happens.
        works: What is inside the engine; what is done or has failed is removed.
        clock: Gives the time, in seconds.

    Attributes:
        times: How long a batch of each bucket takes; None before the warm-up.
        in_flight: The ticks, the oldest first.
        ending: The number of works whose last step is in flight.
        computed_seconds: The seconds that all ticks take at the best rate.
    """

    kind: ClassVar[EngineKind]
    what: ClassVar[str]
    """What a piece of work is, for people."""

    def __init__(
        self,
        device: DeviceThread,
        observer: EngineObserver,
        works: FairQueue[W],
        clock: Callable[[], float],
    ) -> None:
        self._device, self._observer = device, observer
        self._works, self._clock = works, clock
        self.times: BucketTimes | None = None
        self.in_flight = deque[K]()
        self.ending = 0
        self.computed_seconds = 0.0
        self._finished_at = -math.inf

    @abstractmethod
    def release(self, work: W) -> None:
        """Forget the state of work that is done, or that nobody waits for."""

    @abstractmethod
    def begin(self, jobs: Sequence[W], bucket: int) -> bool:
        """Give the device a tick.

        Args:
            jobs: The work in it, one of several ready parts as often as it has parts in it.
            bucket: The size of the batch.

        Returns:
            Whether it could be given.
        """

    @abstractmethod
    def _hand_over(self, tick: K, now: float, seconds: float) -> None:
        """Report the progress that a tick has made, and give the results of what is done."""

    def _launched(self, tick: K) -> None:
        """Note that the device was given a tick."""
        self.in_flight.append(tick)
        if tick.done:
            with self._device.changed:
                self.ending += len(tick.done)
                for work in tick.done:
                    self._works.remove(work)
                    self.release(work)

    def _not_taken_up(self, work: W, jobs: Sequence[W], error: Exception) -> None:
        """End work whose state found no place on the device; the others of its tick wait again."""
        # Smaller batches would make no room for it that lasts: the others go on without.
        self._device.health.failed(self.kind, error)
        error.__traceback__ = None
        release_memory()
        with self._device.changed:
            self._works.take_back(jobs)
        self._end([work], error)

    def finish(self) -> None:
        """Wait for the oldest tick in flight, and hand over what it made."""
        assert self.times is not None
        tick = self.in_flight[0]
        try:
            if tick.marker is not None:
                tick.marker.synchronize()
        except Exception as error:  # noqa: BLE001
            # What was given to the device after it is worth no more.
            batches = [work for each in self.in_flight for work in each.batch]
            self.in_flight.clear()
            self.ending = 0
            self._device.health.failed(self.kind, error)
            self._end(list(dict.fromkeys(batches)), error)
            return
        self.in_flight.popleft()
        now = self._clock()
        # The device began with it when it had ended the one before.
        seconds = now - max(tick.begun, self._finished_at)
        self._finished_at = now
        self._device.health.worked(self.kind)
        self.times.observe(tick.bucket, seconds)
        self.computed_seconds += self.times.least_seconds(tick.rows)
        self._observer.batch(self.kind, rows=tick.rows, bucket=tick.bucket, seconds=seconds)
        self.ending -= len(tick.done)
        self._hand_over(tick, now, seconds)

    def _failed(
        self,
        jobs: Sequence[W],
        bucket: int,
        error: Exception,
        *,
        made: bool,
        broken: Sequence[W] = (),
    ) -> None:
        """Make a tick that was too large for the memory again in smaller ones; fail any other.

        Args:
            jobs: The work of the tick, as in :meth:`begin`.
            bucket: The size of the batch.
            error: What the runner raised.
            made: Whether the step was made, and only what comes after it failed.
            broken: Those whose states are lost in any case.
        """
        assert self.times is not None
        kind = self._device.health.failed(self.kind, error)
        smaller = without_bucket(self.times, bucket, least=MIN_ROWS)
        batch = list(dict.fromkeys(jobs))
        if kind == "memory" and smaller is not None:
            logger.warning(
                "a batch of %d rows does not fit into the device's memory; the largest is %d from "
                "now on",
                bucket,
                smaller.buckets[-1],
            )
            with self._device.changed:
                self.times = smaller
                if not made:
                    self._works.take_back(jobs)
            error.__traceback__ = None  # it holds the batch's tensors
            release_memory()
            # A step that was made stays made; work whose last step was made cannot go on.
            batch = [work for work in batch if not work.steps_left or work in broken]
        if batch:
            self._end(batch, error)

    def _end(self, batch: Sequence[W], error: Exception) -> None:
        """End work with a failure: it is its own affair, the thread serves the next."""
        self._observer.failed(self.kind, len(batch), error)
        with self._device.changed:
            for work in batch:
                self._works.remove(work)
                self.release(work)
        for work in batch:
            work.fail(ComputeError(f"a step of this {self.what} failed on the device; try again"))
