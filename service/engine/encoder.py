"""The encoder's engine: micro-batches by size and a short wait."""

import itertools
import logging
import math
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from flowmo.imaging.reading import Pixels
from flowmo.service.engine.calls import (
    DEFAULT_MAX_QUEUED_REQUESTS,
    NO_DEADLINE,
    Call,
    Encoded,
    Timings,
)
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.failures import release_memory
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.observer import EngineObserver
from flowmo.service.engine.recheck import Recheck
from flowmo.service.engine.runner import EncoderRunner
from flowmo.service.engine.schedule import BucketTimes, measure, worthwhile
from flowmo.service.engine.work import (
    Work,
    queue_full,
    refuse_late,
    result_by_deadline,
    stopped,
    without_bucket,
)
from flowmo.service.errors import ComputeError, QueueFullError

logger = logging.getLogger(__name__)

DEFAULT_BATCH_WAIT = 0.002


@dataclass(eq=False, slots=True, kw_only=True)
class _Work(Work[Encoded]):
    pixels: Pixels

    @property
    def ready_rows(self) -> int:
        """See :class:`Job`."""
        return 1

    @property
    def ready_parts(self) -> int:
        """See :class:`Job`."""
        return 1

    @property
    def rows_left(self) -> int:
        """See :class:`Job`."""
        return 1


class EncoderEngine:
    """Encodes for many clients.

    Args:
        runner: What computes the tokens.
        device: The thread that the runner is called on.
        observer: Is notified of what happens.
        max_queued_requests: How many pictures may wait; more are refused.
        batch_wait: How long a batch that is not full waits for more pictures, in seconds.
    """

    def __init__(
        self,
        runner: EncoderRunner,
        device: DeviceThread,
        observer: EngineObserver,
        *,
        max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS,
        batch_wait: float = DEFAULT_BATCH_WAIT,
    ) -> None:
        self._runner, self._device, self._observer = runner, device, observer
        self._max_queued, self._batch_wait = max_queued_requests, batch_wait
        self._waiting = FairQueue[_Work]()
        self._left = deque[_Work]()  # by their clients, since the last batch
        self._recheck = Recheck(self._seconds_of_batch)
        self._times: BucketTimes | None = None
        self._computed_seconds = 0.0

    @property
    def queue_depth(self) -> int:
        """The number of pictures that wait for the device."""
        return len(self._waiting)

    @property
    def slots(self) -> int:
        """The pictures of the largest batch that is used."""
        return (self._times or self._runner).buckets[-1]

    @property
    def computed_seconds(self) -> float:
        """The seconds that all work since the start takes at the best rate."""
        return self._computed_seconds

    @property
    def backlog_seconds(self) -> float:
        """The seconds until all that waits now would be done."""
        return self._seconds(len(self._waiting))

    async def encode(self, pixels: Pixels, call: Call = NO_DEADLINE) -> Encoded:
        """Encode a picture.

        Args:
            pixels: uint8 [S, S, 3].
            call: The deadline, the priority and the tenant.

        Raises:
            QueueFullError: As many pictures as may wait do.
            DeadlineUnreachableError: The picture would not be encoded in time.
            DeadlineExceededError: The picture was not encoded in time.
            ComputeError: The batch that the picture was in failed.
            EngineStoppedError: The device thread has ended.
        """
        work = _Work(call=call, pixels=pixels)
        with self._device.changed:
            if self._device.ended:
                raise stopped()
            self._admit(call)
            work.future.add_done_callback(lambda _: self._notice(work))
            self._waiting.add(work)
            self._device.changed.notify_all()
        return await result_by_deadline(work, lambda raised: self._requeue(work, raised))

    def _requeue(self, work: _Work, call: Call) -> None:
        """Give work that more have come to wait for the place that its new call deserves."""
        with self._device.changed:
            if work in self._waiting:
                self._waiting.remove(work)
                work.call = call
                self._waiting.add(work)

    def _notice(self, work: _Work) -> None:
        """Remember that a client has left: called by whoever cancels, or ends, the work."""
        if work.future.cancelled():
            self._left.append(work)

    def _admit(self, call: Call) -> None:
        """Refuse new work that cannot be done. The lock is held."""
        waiting = len(self._waiting)
        try:
            if waiting >= self._max_queued:
                seconds = self._seconds(waiting + 1)
                raise queue_full(f"{waiting} pictures wait to be encoded", seconds)
            _, ahead = self._waiting.ahead(call, 1)
            refuse_late(call, self._seconds(math.ceil(ahead) + 1), "the encoding")
        except QueueFullError:
            self._observer.refused("encoder", "queue-full")
            raise
        except Exception:
            self._observer.refused("encoder", "deadline")
            if not waiting and self._recheck.ask():
                self._device.changed.notify_all()
            raise

    def _seconds(self, pictures: int) -> float:
        if self._times is None:  # the warm-up is not done: nothing is known yet
            return 0.0
        full, rest = divmod(pictures, self._times.buckets[-1])
        seconds = full * self._times.seconds(self._times.buckets[-1])
        return seconds + (self._times.seconds(self._times.smallest(rest)) if rest else 0.0)

    def warm_up(self) -> float:
        """See :meth:`Worker.warm_up`."""
        seconds = measure(self._runner.buckets, self._seconds_of_batch)
        self._times = BucketTimes(worthwhile(seconds, keep=1))
        return max(seconds.values())

    def _seconds_of_batch(self, bucket: int) -> float:
        size = self._runner.info.image_size
        pixels = np.zeros((bucket, size, size, 3), np.uint8)
        begin = time.perf_counter()
        self._runner.encode(pixels)
        self._runner.synchronize()
        return time.perf_counter() - begin

    def due(self) -> float | None:
        """See :meth:`Worker.due`."""
        self._drop_cancelled()
        if not self._waiting:
            return 0.0 if self._recheck.is_due else None
        assert self._times is not None
        if len(self._waiting) >= self._times.buckets[-1]:
            return 0.0
        return next(iter(self._waiting)).submitted + self._batch_wait

    def _drop_cancelled(self) -> None:
        """Forget work that nobody waits for. The lock is held."""
        while self._left:
            work = self._left.popleft()
            if work in self._waiting:
                self._waiting.remove(work)
                self._observer.cancelled("encoder", 1)

    def run(self) -> None:
        """See :meth:`Worker.run`."""
        assert self._times is not None
        with self._device.changed:
            self._drop_cancelled()
            batch = list(itertools.islice(self._waiting.order(), self._times.buckets[-1]))
            self._waiting.give(batch)
            for work in batch:
                self._waiting.remove(work)
        if not batch:
            if self._recheck.is_due:
                self._recheck.run(self._times, self._device.health, "encoder")
            return
        bucket = self._times.smallest(len(batch))
        padded = [*batch, *([batch[-1]] * (bucket - len(batch)))]
        begin = time.monotonic()
        try:
            tokens = self._runner.encode(np.stack([work.pixels for work in padded]))
        except Exception as error:  # noqa: BLE001
            self._failed(batch, bucket, error)
            return
        self._device.health.worked("encoder")
        seconds = time.monotonic() - begin
        self._times.observe(bucket, seconds)
        self._computed_seconds += self._times.least_seconds(len(batch))
        self._observer.batch("encoder", rows=len(batch), bucket=bucket, seconds=seconds)
        weights = self._runner.info.fingerprint
        for work, item in zip(batch, tokens, strict=False):
            queued = begin - work.submitted
            timings = Timings(queue=queued, run=seconds)
            work.succeed(Encoded(tokens=item, weights=weights, timings=timings))

    def _failed(self, batch: list[_Work], bucket: int, error: Exception) -> None:
        """Try a batch that was too large for the memory again in smaller ones; fail any other."""
        assert self._times is not None
        kind = self._device.health.failed("encoder", error)
        smaller = without_bucket(self._times, bucket, least=1)
        if kind == "memory" and smaller is not None:
            logger.warning(
                "a batch of %d pictures does not fit into the device's memory; the largest is %d "
                "from now on",
                bucket,
                smaller.buckets[-1],
            )
            with self._device.changed:
                self._times = smaller
                for work in batch:
                    self._waiting.add(work)
            error.__traceback__ = None  # it holds the batch's tensors
            release_memory()
            return
        # A failure is its own batch's affair; the thread serves the next one.
        self._observer.failed("encoder", len(batch), error)
        for work in batch:
            work.fail(ComputeError("the encoder failed on this batch; try again"))

    def abandon(self) -> None:
        """See :meth:`Worker.abandon`."""
        for work in self._waiting:
            self._waiting.remove(work)
            work.fail(stopped())
