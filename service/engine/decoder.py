"""The decoder's engine: one velocity batch a tick, its rows at any step of any request.

    dx/dt = v(x, t), t from 1 to 0: a step is one or, where it is guided, two rows of a batch.

Work joins and leaves between ticks, which it shares as :class:`FairQueue` says: a short decode goes
before a long one, and a client that leaves frees its rows before the next tick.
"""

import asyncio
import bisect
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from flowmo.imaging.reading import Pixels
from flowmo.model.config import FlowMoConfig
from flowmo.model.sampler import time_grid
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    DEFAULT_MAX_QUEUED_REQUESTS,
    NO_DEADLINE,
    Batching,
    Call,
    Decoded,
    DecodeOptions,
    DecodeProgress,
    Timings,
    Watch,
)
from flowmo.service.engine.decode_work import DecodeTick, DecodeWork, load_of, rows_of
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.failures import release_memory
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.observer import EngineObserver
from flowmo.service.engine.runner import DecoderRunner
from flowmo.service.engine.schedule import (
    BucketTimes,
    Load,
    backlog,
    choose,
    completion,
    measure,
    worthwhile,
)
from flowmo.service.engine.state_table import StateTable
from flowmo.service.engine.work import (
    queue_full,
    refuse_late,
    result_by_deadline,
    stopped,
    without_bucket,
)
from flowmo.service.errors import ComputeError, DeadlineUnreachableError, OtherWeightsError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

# A guided step is two rows of one tick, so a runner must compute at least two.
MIN_ROWS = 2
# How far a request that allows it is degraded, at most: a quarter of its steps.
DEGRADE_LIMIT = 4
# The share of the time left that a degraded decode is planned for: an estimate is not exact, and
# the picture must still be written as a file.
DEGRADE_SHARE = 0.75


class DecoderEngine:
    """Decodes for many clients.

    Args:
        runner: What computes the steps.
        device: The thread that the runner is called on.
        observer: Is notified of what happens.
        max_queued_requests: How many decodes may be inside at once; more are refused.
        batching: ``step`` forms a new batch each tick. For comparison only: ``request`` forms one
            when the last has ended, as a dynamic batcher does; ``single`` runs one decode a time.
        clock: Gives the time, in seconds.
    """

    def __init__(
        self,
        runner: DecoderRunner,
        device: DeviceThread,
        observer: EngineObserver,
        *,
        max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS,
        batching: Batching = "step",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert runner.buckets[-1] >= MIN_ROWS, runner.buckets
        self._runner, self._device, self._observer = runner, device, observer
        self._max_queued, self._batching, self._clock = max_queued_requests, batching, clock
        self._works = FairQueue[DecodeWork]()
        self._left = deque[DecodeWork]()  # by their clients, since the last tick
        self._cohort: list[DecodeWork] = []  # of batching other than by step
        self._times: BucketTimes | None = None
        self._computed_seconds = 0.0
        self._table: StateTable | None = None
        # Makes noise while the device computes.
        self._preparing = ThreadPoolExecutor(1, "flowmo-noise")
        self._in_flight = deque[DecodeTick]()
        self._ending = 0  # decodes whose last step is in flight
        self._finished_at = -math.inf

    @property
    def queue_depth(self) -> int:
        """The number of decodes that wait or are under way."""
        return len(self._works) + self._ending

    @property
    def slots(self) -> int:
        """The rows of the largest batch that is used."""
        return (self._times or self._runner).buckets[-1]

    @property
    def computed_seconds(self) -> float:
        """The seconds that all work since the start takes at the best rate."""
        return self._computed_seconds

    @property
    def backlog_seconds(self) -> float:
        """The seconds until all that is inside now would be done."""
        with self._device.changed:
            return self._backlog()

    async def decode(
        self,
        tokens: Tokens,
        options: DecodeOptions,
        call: Call = NO_DEADLINE,
        watch: Watch | None = None,
    ) -> Decoded:
        """Decode a token set.

        Args:
            tokens: A token set of the runner's model.
            options: The seed, the sampler, and whether fewer steps will do.
            call: The deadline and the priority.
            watch: How progress is reported; it is not without it.

        Raises:
            model.errors.TokenError: The tokens have another shape than the model's.
            OtherWeightsError: The tokens are for other weights.
            QueueFullError: As many decodes as there may be are inside.
            DeadlineUnreachableError: The decode would not be done in time.
            DeadlineExceededError: The decode was not done in time.
            ComputeError: A batch that the decode was in failed.
            EngineStoppedError: The device thread has ended.
        """
        work = self.submit(tokens, options, call, watch, asyncio.get_running_loop())
        return await result_by_deadline(work, lambda raised: self._requeue(work, raised))

    def submit(
        self,
        tokens: Tokens,
        options: DecodeOptions,
        call: Call = NO_DEADLINE,
        watch: Watch | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> DecodeWork:
        """Take a decode in; see :meth:`decode`, which waits for its result, too.

        Returns:
            The decode, whose ``future`` has the result.
        """
        weights = self._runner.info.fingerprint
        if options.weights not in {None, weights}:
            raise OtherWeightsError(
                f"the tokens are for the weights {options.weights}, these are {weights}"
            )
        self._runner.check(tokens)
        with self._device.changed:
            if self._device.ended:
                raise stopped()
            options = self._admit(options, call)
            work = DecodeWork(
                call=call,
                submitted=self._clock(),
                tokens=tokens,
                options=options,
                watch=watch,
                loop=loop,
                times=time_grid(options.sampler),
                rows=rows_of(options.sampler),
                start=self._preparing.submit(self._runner.begin, tokens, options.seed),
            )
            work.future.add_done_callback(lambda _: self._notice(work))
            self._works.add(work)
            self._device.changed.notify_all()
        return work

    def _requeue(self, work: DecodeWork, call: Call) -> None:
        """Give work that more have come to wait for the place that its new call deserves."""
        with self._device.changed:
            if work in self._works:
                self._works.remove(work)
                work.call = call
                self._works.add(work)

    def _notice(self, work: DecodeWork) -> None:
        """Remember that a client has left: called by whoever cancels, or ends, the work."""
        if work.future.cancelled():
            self._left.append(work)

    def _admit(self, options: DecodeOptions, call: Call) -> DecodeOptions:
        """Choose the options that new work is taken with, or refuse it. The lock is held."""
        if len(self._works) >= self._max_queued:
            self._observer.refused("decoder", "queue-full")
            raise queue_full(f"{len(self._works)} decodes are inside", self._backlog())
        load = load_of(options.sampler)
        try:
            refuse_late(call, self._completion(call, load), "the decode")
        except DeadlineUnreachableError:
            if (fewer := self._degraded(options, call, load)) is not None:
                self._observer.degraded(options.sampler.steps - fewer.sampler.steps)
                return fewer
            self._observer.refused("decoder", "deadline")
            raise
        return options

    def _degraded(self, options: DecodeOptions, call: Call, load: Load) -> DecodeOptions | None:
        """Reduce the steps to the most that can be made in time, if fewer do. The lock is held."""
        sampler = options.sampler
        if not options.degrade or sampler.schedule == "explicit":
            return None
        least = -(-sampler.steps // DEGRADE_LIMIT)
        seconds = DEGRADE_SHARE * call.remaining

        def is_late(steps: int) -> bool:
            # As many of them are guided as of all: near enough, and quick.
            fewer = Load(steps=steps, rows=-(-load.rows * steps // load.steps))
            return self._completion(call, fewer) > seconds

        # The more steps, the later: the first that is late, less one.
        steps = bisect.bisect_left(range(least, sampler.steps), True, key=is_late) + least - 1
        return None if steps < least else replace(options, sampler=replace(sampler, steps=steps))

    def _completion(self, call: Call, new: Load) -> float:
        """The seconds until new work would be done. The lock is held."""
        if self._times is None:  # the warm-up is not done: nothing is known yet
            return 0.0
        jobs, rows = self._works.ahead(call, new.rows)
        return completion(len(self._works), jobs, rows, new, self._times)

    def _backlog(self) -> float:
        if self._times is None:
            return 0.0
        return backlog(len(self._works), self._works.rows_left, self._times)

    def warm_up(self) -> float:
        """See :meth:`Worker.warm_up`."""
        config = self._runner.info.config
        size = config.image_size
        times = time_grid(config.sampler)[:-1]
        device = self._runner.device
        x, condition = (part.to(device) for part in self._runner.begin(_any_tokens(config), 0))

        def seconds_of(bucket: int) -> float:
            at = [times[i % len(times)] for i in range(bucket)]
            begin = time.perf_counter()
            self._runner.velocity(
                x.expand(bucket, 3, size, size), at, condition.expand(bucket, -1, -1)
            )
            self._runner.synchronize()
            return time.perf_counter() - begin

        seconds = measure(self._runner.buckets, seconds_of)
        least = self._runner.buckets[0]
        for t in times:  # what is kept of each time of the default grid
            self._runner.velocity(
                x.expand(least, 3, size, size), [t] * least, condition.expand(least, -1, -1)
            )
        self._runner.pixels(x[None])
        self._table = StateTable(device, self._runner.buckets[-1])
        self._times = BucketTimes(worthwhile(seconds, keep=MIN_ROWS))
        return max(seconds.values())

    def due(self) -> float | None:
        """See :meth:`Worker.due`."""
        self._drop_cancelled()
        return 0.0 if self._works or self._in_flight else None

    def _drop_cancelled(self) -> None:
        """Forget work that nobody waits for. The lock is held."""
        while self._left:
            work = self._left.popleft()
            if work in self._works:
                self._works.remove(work)
                self._release(work)
                self._observer.cancelled("decoder", work.steps_left)

    def _release(self, work: DecodeWork) -> None:
        if work.slot is not None and self._table is not None:
            self._table.release(work.slot)
            work.slot = None
        work.start = None

    def run(self) -> None:
        """See :meth:`Worker.run`: one tick.

        The device is given a tick while it makes the one before, so that it never waits for this
        thread; no more than two, so that what comes now is not behind many.
        """
        assert self._times is not None
        with self._device.changed:
            self._drop_cancelled()
            candidates = self._candidates()
            batch, bucket = list[DecodeWork](), 0
            if candidates:
                tick = choose([work.ready_rows for work in candidates], self._times)
                batch, bucket = [candidates[index] for index in tick.chosen], tick.bucket
                self._works.give(batch)
        if batch and not self._begin(batch, bucket):
            return
        while self._in_flight and (
            not batch or len(self._in_flight) > 1 or self._in_flight[0].marker is None
        ):
            self._finish()
            if not batch:
                return

    @torch.inference_mode()
    def _begin(self, batch: list[DecodeWork], bucket: int) -> bool:
        """Give the device a tick. Whether it could be given."""
        begin = self._clock()
        made = False
        try:
            self._take_up(batch, begin)
            # Those with guidance first, each group by its slots: few and large operations.
            batch.sort(key=lambda work: (-work.ready_rows, work.slot))
            rows = sum(work.ready_rows for work in batch)
            steps = [work.euler_step() for work in batch]
            assert self._table is not None
            estimates = self._table.step(steps, bucket, self._runner.velocity)
            for work in batch:
                work.step += 1
            made = True
            wanted = [index for index, step in enumerate(steps) if step.estimate]
            previews = dict(zip(wanted, self._pictures(estimates), strict=True))
            done = [work for work in batch if not work.steps_left]
            slots = [_slot(work) for work in done]
            pictures = list(self._runner.pixels(self._table.states(slots))) if done else []
            marker = self._runner.record()
        except Exception as error:  # noqa: BLE001
            self._failed(batch, bucket, error, made=made)
            return False
        counts = [work.step for work in batch]
        self._in_flight.append(
            DecodeTick(
                batch=batch,
                bucket=bucket,
                rows=rows,
                begun=begin,
                steps=counts,
                previews=previews,
                done=done,
                pictures=pictures,
                marker=marker,
            )
        )
        if done:
            with self._device.changed:
                self._ending += len(done)
                for work in done:
                    self._works.remove(work)
                    self._release(work)
        return True

    def _take_up(self, batch: Sequence[DecodeWork], now: float) -> None:
        """Give those of a batch a slot that have none."""
        assert self._table is not None
        for work in batch:
            work.begun = now if work.begun is None else work.begun
            if work.start is not None:
                # Others' noise may be made before its own: then it is made here.
                start = (
                    self._runner.begin(work.tokens, work.options.seed)
                    if work.start.cancel()
                    else work.start.result()
                )
                work.slot, work.start = self._table.put(*start), None

    def _pictures(self, estimates: Sequence["Tensor"]) -> Sequence[Pixels]:
        return list(self._runner.pixels(torch.stack(list(estimates)))) if estimates else []

    def _finish(self) -> None:
        """Wait for the oldest tick in flight, and hand over what it made."""
        assert self._times is not None
        tick = self._in_flight[0]
        try:
            if tick.marker is not None:
                tick.marker.synchronize()
        except Exception as error:  # noqa: BLE001
            # What was given to the device after it is worth no more.
            batches = [work for each in self._in_flight for work in each.batch]
            self._clear_flight()
            self._failed(list(dict.fromkeys(batches)), tick.bucket, error, made=True, fatal=True)
            return
        self._in_flight.popleft()
        now = self._clock()
        # The device began with it when it had ended the one before.
        seconds = now - max(tick.begun, self._finished_at)
        self._finished_at = now
        self._device.health.worked("decoder")
        self._times.observe(tick.bucket, seconds)
        self._computed_seconds += self._times.least_seconds(tick.rows)
        self._observer.batch("decoder", rows=tick.rows, bucket=tick.bucket, seconds=seconds)
        for index, work in enumerate(tick.batch):
            work.seconds.append(seconds)
            if work.watch is not None:
                self._report(work, work.watch, tick.steps[index], tick.previews.get(index))
        self._ending -= len(tick.done)
        for work, pixels in zip(tick.done, tick.pictures, strict=True):
            assert work.begun is not None
            timings = Timings(
                queue=work.begun - work.submitted, run=now - work.begun, steps=tuple(work.seconds)
            )
            work.succeed(Decoded(pixels=pixels, sampler=work.options.sampler, timings=timings))

    def _clear_flight(self) -> None:
        self._in_flight.clear()
        self._ending = 0

    def _failed(
        self,
        batch: Sequence[DecodeWork],
        bucket: int,
        error: Exception,
        *,
        made: bool,
        fatal: bool = False,
    ) -> None:
        """Make a tick that was too large for the memory again in smaller ones; fail any other.

        Args:
            batch: The decodes of the tick.
            bucket: The size of the batch.
            error: What the runner raised.
            made: Whether the step was made, and only what comes after it failed.
            fatal: Whether their states are lost in any case.
        """
        assert self._times is not None
        kind = self._device.health.failed("decoder", error)
        smaller = without_bucket(self._times, bucket, least=MIN_ROWS)
        if kind == "memory" and smaller is not None and not fatal:
            logger.warning(
                "a batch of %d rows does not fit into the device's memory; the largest is %d from "
                "now on",
                bucket,
                smaller.buckets[-1],
            )
            with self._device.changed:
                self._times = smaller
                if not made:
                    self._works.take_back(batch)
            error.__traceback__ = None  # it holds the batch's tensors
            release_memory()
            # A step that was made stays made; a decode whose last step was made cannot go on.
            batch = [work for work in batch if not work.steps_left]
            if not batch:
                return
        # A failure is its own batch's affair; the thread serves the next one.
        self._observer.failed("decoder", len(batch), error)
        with self._device.changed:
            for work in batch:
                self._works.remove(work)
                self._release(work)
        for work in batch:
            work.fail(ComputeError("a step of this decode failed on the device; try again"))

    def _candidates(self) -> list[DecodeWork]:
        """The work that may be in the next tick, in its order. The lock is held."""
        assert self._times is not None
        if self._batching == "step":
            candidates, rows = list[DecodeWork](), 0
            for work in self._works.order():
                candidates.append(work)
                rows += work.ready_rows
                # As many again, because one of two rows may not fit where a later one does.
                if rows >= 2 * self._times.buckets[-1]:
                    break
            return candidates
        self._cohort = [work for work in self._cohort if work in self._works]
        if not self._cohort:
            slots = 1 if self._batching == "single" else self._times.buckets[-1]
            for work in self._works:  # by their age
                # A later step may be guided, and must fit into a tick then.
                need = 1 if self._batching == "single" else max(work.rows)
                if need > slots:
                    break
                slots -= need
                self._cohort.append(work)
        return list(self._cohort)

    def _report(self, work: DecodeWork, watch: Watch, step: int, preview: Pixels | None) -> None:
        progress = DecodeProgress(step=step, steps=len(work.rows), preview=preview)
        # The loop is closed when its server was stopped hard.
        with contextlib.suppress(RuntimeError):
            if work.loop is not None:
                work.loop.call_soon_threadsafe(watch.on_progress, progress)

    def abandon(self) -> None:
        """See :meth:`Worker.abandon`."""
        self._preparing.shutdown(wait=False, cancel_futures=True)
        ending = [work for tick in tuple(self._in_flight) for work in tick.done]
        for work in self._works:
            self._works.remove(work)
            work.fail(stopped())
        for work in ending:
            work.fail(stopped())


def _slot(work: DecodeWork) -> int:
    assert work.slot is not None
    return work.slot


def _any_tokens(config: FlowMoConfig) -> Tokens:
    ids = np.zeros((config.code_length, config.ids_per_token), np.int32)
    return Tokens(ids=ids, group_bits=config.group_bits)
