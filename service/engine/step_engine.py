"""An engine of steps: one batch a tick, its rows at any step of any request.

The decoder's and the generator's engine are such. Work joins and leaves between ticks, which it
shares as :class:`FairQueue` says: short work goes before long, and a client that leaves frees its
rows before the next tick.
"""

import bisect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from flowmo.service.engine.calls import Batching, Call
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.observer import EngineKind, EngineObserver
from flowmo.service.engine.recheck import Recheck
from flowmo.service.engine.schedule import BucketTimes, Load, backlog, completion
from flowmo.service.engine.step_batches import StepBatches
from flowmo.service.engine.step_ticks import MIN_ROWS, StepTicks
from flowmo.service.engine.step_work import StepWork
from flowmo.service.engine.work import queue_full, refuse_late, stopped
from flowmo.service.errors import DeadlineUnreachableError

# How far a request that allows it is degraded, at most: a quarter of its steps.
DEGRADE_LIMIT = 4
# The share of the time left that degraded work is planned for: an estimate is not exact, and the
# result must still be written as a file.
DEGRADE_SHARE = 0.75

W = TypeVar("W", bound=StepWork[Any])


class StepEngine(ABC, Generic[W]):
    """Makes the steps of many clients' work.

    Args:
        ticks: Makes and ends the ticks.
        works: The queue that the ticks are made from.
        device: The thread that they are made on.
        observer: Is notified of what happens.
        buckets: The batch sizes before they were measured.
        seconds_of: Runs a batch of a size, and says how many seconds it took.
        max_queued_requests: How much work may be inside at once; more is refused.
        batching: ``step`` forms a new batch each tick. For comparison only: ``request`` forms one
            when the last has ended, as a dynamic batcher does; ``single`` does one work a time.
        clock: Gives the time, in seconds.

    Attributes:
        beside: The engines of steps that share the device; each has its share of it while it has
            work, so what is asked for takes longer by what they do meanwhile.
    """

    kind: ClassVar[EngineKind]
    plural: ClassVar[str]
    """What is inside, for people."""

    def __init__(
        self,
        ticks: StepTicks[W, Any],
        works: FairQueue[W],
        device: DeviceThread,
        observer: EngineObserver,
        *,
        buckets: Sequence[int],
        seconds_of: Callable[[int], float],
        max_queued_requests: int,
        batching: Batching,
        clock: Callable[[], float],
    ) -> None:
        assert buckets[-1] >= MIN_ROWS, buckets
        self.beside: Sequence[StepEngine[Any]] = ()
        self._ticks, self._works = ticks, works
        self._device, self._observer = device, observer
        self._buckets, self._max_queued, self._clock = buckets, max_queued_requests, clock
        self._left = deque[W]()  # by their clients, since the last tick
        self._batches = StepBatches(works, batching)
        self._recheck = Recheck(seconds_of, clock)

    @abstractmethod
    def _measure(self) -> tuple[BucketTimes, float]:
        """The seconds of the batch sizes worth using, and of the slowest of all."""

    @property
    def _times(self) -> BucketTimes | None:
        return self._ticks.times

    @property
    def queue_depth(self) -> int:
        """The number of works that wait or are under way."""
        return len(self._works) + self._ticks.ending

    @property
    def slots(self) -> int:
        """The rows of the largest batch that is used."""
        return self._buckets[-1] if self._times is None else self._times.buckets[-1]

    @property
    def computed_seconds(self) -> float:
        """The seconds that all work since the start takes at the best rate."""
        return self._ticks.computed_seconds

    @property
    def backlog_seconds(self) -> float:
        """The seconds until a slot of the largest batch is free: 0 while one is."""
        with self._device.changed:
            return self._backlog()

    @property
    def work_seconds(self) -> float:
        """The seconds that all work inside takes at the best rate. The lock is held."""
        return 0.0 if self._times is None else self._times.least_seconds(self._works.rows_left)

    def _check_running(self) -> None:
        """Refuse work that nobody will do. The lock is held."""
        if self._device.ended:
            raise stopped()

    def _add(self, work: W) -> None:
        """Put new work into the queue. The lock is held."""
        work.future.add_done_callback(lambda _: self._notice(work))
        self._works.add(work)
        self._device.changed.notify_all()

    def _requeue(self, work: W, call: Call) -> None:
        """Give work that more have come to wait for the place that its new call deserves."""
        with self._device.changed:
            if work in self._works:
                self._works.remove(work)
                work.call = call
                self._works.add(work)

    def _notice(self, work: W) -> None:
        """Remember that a client has left: called by whoever cancels, or ends, the work."""
        if work.future.cancelled():
            self._left.append(work)

    def _refuse_full(self, *, too_large: bool = False, more: str = "") -> None:
        """Refuse work that finds no room. The lock is held.

        Args:
            too_large: Whether there is none for another reason than how much is inside.
            more: What else is said of what is inside.
        """
        if len(self._works) >= self._max_queued or too_large:
            self._observer.refused(self.kind, "queue-full")
            raise queue_full(f"{len(self._works)} {self.plural} are inside{more}", self._backlog())

    def _steps_in_time(self, call: Call, load: Load, what: str, *, degrade: bool) -> int:
        """Choose how many steps new work is taken with, or refuse it. The lock is held.

        Args:
            call: The deadline and the priority.
            load: What is asked for.
            what: The name of the work, for the message.
            degrade: Whether fewer steps will do.
        """
        try:
            refuse_late(call, self._completion(call, load), what)
        except DeadlineUnreachableError:
            if degrade and (fewer := self._fewer_steps(call, load)) is not None:
                self._observer.degraded(load.steps - fewer)
                return fewer
            self._observer.refused(self.kind, "deadline")
            if not self._is_busy and self._recheck.ask():
                self._device.changed.notify_all()
            raise
        return load.steps

    def _fewer_steps(self, call: Call, load: Load) -> int | None:
        """The most steps that can be made in time, if they are enough. The lock is held."""
        least = -(-load.steps // DEGRADE_LIMIT)
        seconds = DEGRADE_SHARE * call.remaining

        def is_late(steps: int) -> bool:
            # As many of them are guided as of all: near enough, and quick.
            fewer = Load(steps=steps, rows=-(-load.rows * steps // load.steps))
            return self._completion(call, fewer) > seconds

        # The more steps, the later: the first that is late, less one.
        steps = bisect.bisect_left(range(least, load.steps), True, key=is_late) + least - 1
        return None if steps < least else steps

    def _completion(self, call: Call, new: Load) -> float:
        """The seconds until new work would be done. The lock is held."""
        if self._times is None:  # the warm-up is not done: nothing is known yet
            return 0.0
        ahead, rows = self._works.ahead(call, new.rows)
        own = completion(self._works.parts, ahead, rows, new, self._times)
        # Beside an engine that has work for as long, half of the device is this one's.
        return own + sum(min(own, engine.work_seconds) for engine in self.beside)

    def _backlog(self) -> float:
        if self._times is None:
            return 0.0
        return backlog(self._works.loads(), self._times)

    def warm_up(self) -> float:
        """See :meth:`Worker.warm_up`."""
        self._ticks.times, slowest = self._measure()
        return slowest

    def due(self) -> float | None:
        """See :meth:`Worker.due`."""
        self._drop_cancelled()
        return 0.0 if self._is_busy or self._recheck.is_due else None

    @property
    def _is_busy(self) -> bool:
        return bool(self._works or self._ticks.in_flight)

    def _drop_cancelled(self) -> None:
        """Forget work that nobody waits for. The lock is held."""
        while self._left:
            work = self._left.popleft()
            if work in self._works:
                self._works.remove(work)
                self._ticks.release(work)
                self._observer.cancelled(self.kind, work.steps_left)

    def run(self) -> None:
        """See :meth:`Worker.run`: one tick.

        The device is given a tick while it makes the one before, so that it never waits for this
        thread; no more than two, so that what comes now is not behind many.
        """
        assert self._times is not None
        with self._device.changed:
            self._drop_cancelled()
            jobs, bucket = self._batches.next(self._times)
        ticks = self._ticks
        if self._recheck.is_due and not jobs and not ticks.in_flight:
            self._recheck.run(self._times, self._device.health, self.kind)
            return
        if jobs and not ticks.begin(jobs, bucket):
            return
        in_flight = ticks.in_flight
        while in_flight and (not jobs or len(in_flight) > 1 or in_flight[0].marker is None):
            ticks.finish()
            if not jobs:
                return

    def abandon(self) -> None:
        """See :meth:`Worker.abandon`."""
        ending = [work for tick in tuple(self._ticks.in_flight) for work in tick.done]
        for work in self._works:
            self._works.remove(work)
            work.fail(stopped())
        for work in ending:
            work.fail(stopped())
