"""The decoder's engine: one velocity batch a tick, its rows at any step of any request.

    dx/dt = v(x, t), t from 1 to 0: a step is one or, where it is guided, two rows of a batch.

Work joins and leaves between ticks, which it shares as :class:`FairQueue` says: a short decode goes
before a long one, and a client that leaves frees its rows before the next tick.
"""

import asyncio
import bisect
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from flowmo.imaging.reading import Pixels
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.sampler import is_guided, time_grid
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
    worthwhile,
)
from flowmo.service.engine.work import (
    Work,
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
_WARM_RUNS = 2


@dataclass(eq=False, slots=True, kw_only=True)
class _Work(Work[Decoded]):
    """A decode that waits or is under way.

    Attributes:
        tokens: The token set to decode.
        options: The options that it was taken with.
        watch: How progress is reported, if it is.
        loop: The event loop that progress is reported in.
        times: N + 1 times; step i goes from times[i] to times[i + 1].
        rows: The rows of each step, 1 or 2.
        step: The number of steps that are done.
        x: The state, float32 [3, S, S], on the device, from the first tick on.
        condition: The condition, [K, D + 1], on the device, from the first tick on.
        seconds: The time of each step that is done.
    """

    tokens: Tokens
    options: DecodeOptions
    watch: Watch | None
    loop: asyncio.AbstractEventLoop
    times: tuple[float, ...]
    rows: tuple[int, ...]
    step: int = 0
    x: "Tensor | None" = None
    condition: "Tensor | None" = None
    seconds: list[float] = field(default_factory=list)

    @property
    def steps_left(self) -> int:
        """The steps that are still to be made, one after the other."""
        return len(self.rows) - self.step

    @property
    def ready_rows(self) -> int:
        """See :class:`Job`."""
        return self.rows[self.step]

    @property
    def rows_left(self) -> int:
        """See :class:`Job`."""
        return sum(self.rows[self.step :])


class DecoderEngine:
    """Decodes for many clients.

    Args:
        runner: What computes the steps.
        device: The thread that the runner is called on.
        observer: Is notified of what happens.
        max_queued_requests: How many decodes may be inside at once; more are refused.
        batching: ``step`` forms a new batch each tick. For comparison only: ``request`` forms one
            when the last has ended, as a dynamic batcher does; ``single`` runs one decode a time.
    """

    def __init__(
        self,
        runner: DecoderRunner,
        device: DeviceThread,
        observer: EngineObserver,
        *,
        max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS,
        batching: Batching = "step",
    ) -> None:
        assert runner.buckets[-1] >= MIN_ROWS, runner.buckets
        self._runner, self._device, self._observer = runner, device, observer
        self._max_queued, self._batching = max_queued_requests, batching
        self._works = FairQueue[_Work]()
        self._left = deque[_Work]()  # by their clients, since the last tick
        self._cohort: list[_Work] = []  # of batching other than by step
        self._times: BucketTimes | None = None
        self._computed_seconds = 0.0

    @property
    def queue_depth(self) -> int:
        """The number of decodes that wait or are under way."""
        return len(self._works)

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
        weights = self._runner.info.fingerprint
        if options.weights not in {None, weights}:
            raise OtherWeightsError(
                f"the tokens are for the weights {options.weights}, these are {weights}"
            )
        self._runner.check(tokens)
        loop = asyncio.get_running_loop()
        with self._device.changed:
            if self._device.ended:
                raise stopped()
            options = self._admit(options, call)
            work = _Work(
                call=call,
                tokens=tokens,
                options=options,
                watch=watch,
                loop=loop,
                times=time_grid(options.sampler),
                rows=_rows(options.sampler),
            )
            work.future.add_done_callback(lambda _: self._notice(work))
            self._works.add(work)
            self._device.changed.notify_all()
        return await result_by_deadline(work, lambda raised: self._requeue(work, raised))

    def _requeue(self, work: _Work, call: Call) -> None:
        """Give work that more have come to wait for the place that its new call deserves."""
        with self._device.changed:
            if work in self._works:
                self._works.remove(work)
                work.call = call
                self._works.add(work)

    def _notice(self, work: _Work) -> None:
        """Remember that a client has left: called by whoever cancels, or ends, the work."""
        if work.future.cancelled():
            self._left.append(work)

    def _admit(self, options: DecodeOptions, call: Call) -> DecodeOptions:
        """Choose the options that new work is taken with, or refuse it. The lock is held."""
        if len(self._works) >= self._max_queued:
            self._observer.refused("decoder", "queue-full")
            raise queue_full(f"{len(self._works)} decodes are inside", self._backlog())
        load = _load(options.sampler)
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
        x, condition = self._runner.begin(_any_tokens(config), 0)
        seconds: dict[int, float] = {}
        for bucket in self._runner.buckets:
            xs = x.expand(bucket, 3, size, size)
            conditions = condition.expand(bucket, -1, -1)
            at = [times[i % len(times)] for i in range(bucket)]
            for _ in range(_WARM_RUNS):
                begin = time.perf_counter()
                self._runner.velocity(xs, at, conditions)
                self._runner.synchronize()
                seconds[bucket] = time.perf_counter() - begin
        least = self._runner.buckets[0]
        for t in times:  # what is kept of each time of the default grid
            self._runner.velocity(
                x.expand(least, 3, size, size), [t] * least, condition.expand(least, -1, -1)
            )
        self._runner.pixels(x[None])
        self._times = BucketTimes(worthwhile(seconds, keep=MIN_ROWS))
        return max(seconds.values())

    def due(self) -> float | None:
        """See :meth:`Worker.due`."""
        self._drop_cancelled()
        return 0.0 if self._works else None

    def _drop_cancelled(self) -> None:
        """Forget work that nobody waits for. The lock is held."""
        while self._left:
            work = self._left.popleft()
            if work in self._works:
                self._works.remove(work)
                self._observer.cancelled("decoder", work.steps_left)

    def run(self) -> None:
        """See :meth:`Worker.run`: one tick."""
        assert self._times is not None
        with self._device.changed:
            self._drop_cancelled()
            candidates = self._candidates()
            if not candidates:
                return
            tick = choose([work.ready_rows for work in candidates], self._times)
            batch = [candidates[index] for index in tick.chosen]
            self._works.give(batch)
        begin = time.monotonic()
        for work in batch:
            work.begun = begin if work.begun is None else work.begun
        try:
            self._step(batch, tick.bucket)
            seconds = time.monotonic() - begin
            done = [work for work in batch if work.step == len(work.rows)]
            pictures = self._pictures(done)
        except Exception as error:  # noqa: BLE001
            self._failed(batch, tick.bucket, error)
            return
        self._device.health.worked("decoder")
        self._times.observe(tick.bucket, seconds)
        rows = sum(work.rows[work.step - 1] for work in batch)
        self._computed_seconds += self._times.least_seconds(rows)
        self._observer.batch("decoder", rows=rows, bucket=tick.bucket, seconds=seconds)
        for work in batch:
            work.seconds.append(seconds)
        self._end(done)
        now = time.monotonic()
        for work, pixels in zip(done, pictures, strict=True):
            assert work.begun is not None
            timings = Timings(
                queue=work.begun - work.submitted, run=now - work.begun, steps=tuple(work.seconds)
            )
            work.succeed(Decoded(pixels=pixels, sampler=work.options.sampler, timings=timings))

    def _failed(self, batch: Sequence[_Work], bucket: int, error: Exception) -> None:
        """Make a tick that was too large for the memory again in smaller ones; fail any other."""
        assert self._times is not None
        kind = self._device.health.failed("decoder", error)
        smaller = without_bucket(self._times, bucket, least=MIN_ROWS)
        if kind == "memory" and smaller is not None:
            logger.warning(
                "a batch of %d rows does not fit into the device's memory; the largest is %d from "
                "now on",
                bucket,
                smaller.buckets[-1],
            )
            with self._device.changed:
                self._times = smaller
                self._works.take_back([work for work in batch if work.steps_left])
            error.__traceback__ = None  # it holds the batch's tensors
            release_memory()
            # A step that was made stays made; a decode whose last step was made cannot go on.
            batch = [work for work in batch if work.step == len(work.rows)]
            if not batch:
                return
        # A failure is its own batch's affair; the thread serves the next one.
        self._observer.failed("decoder", len(batch), error)
        self._end(batch)
        for work in batch:
            work.fail(ComputeError("a step of this decode failed on the device; try again"))

    def _candidates(self) -> list[_Work]:
        """The work that may be in the next tick, in its order. The lock is held."""
        assert self._times is not None
        if self._batching == "step":
            candidates, rows = list[_Work](), 0
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

    @torch.inference_mode()
    def _step(self, batch: Sequence[_Work], bucket: int) -> None:
        """Make one Euler step of each decode in the batch."""
        for work in batch:
            if work.x is None:
                work.x, work.condition = self._runner.begin(work.tokens, work.options.seed)
        guided = [work for work in batch if work.rows[work.step] == MIN_ROWS]
        conditions = [_present(work.condition) for work in batch]
        conditions += [torch.zeros_like(_present(work.condition)) for work in guided]
        rows = [*batch, *guided]
        missing = bucket - len(rows)
        rows += rows[-1:] * missing
        conditions += conditions[-1:] * missing
        x = torch.stack([_present(work.x) for work in rows])
        v = self._runner.velocity(
            x, [work.times[work.step] for work in rows], torch.stack(conditions)
        )
        for index, work in enumerate(batch):
            own = v[index]
            if work in guided:
                null = v[len(batch) + guided.index(work)]
                own = null + work.options.sampler.guidance * (own - null)
            t, t_next = work.times[work.step], work.times[work.step + 1]
            state = x[index]
            work.x = state - (t - t_next) * own
            work.step += 1
            if work.watch is not None:
                self._report(work, work.watch, state - t * own)
        self._runner.synchronize()

    def _report(self, work: _Work, watch: Watch, estimate: "Tensor") -> None:
        wanted = work.step in watch.previews
        preview = self._runner.pixels(estimate[None])[0] if wanted else None
        progress = DecodeProgress(step=work.step, steps=len(work.rows), preview=preview)
        # The loop is closed when its server was stopped hard.
        with contextlib.suppress(RuntimeError):
            work.loop.call_soon_threadsafe(watch.on_progress, progress)

    def _pictures(self, done: Sequence[_Work]) -> Sequence[Pixels]:
        if not done:
            return []
        return list(self._runner.pixels(torch.stack([_present(work.x) for work in done])))

    def _end(self, works: Sequence[_Work]) -> None:
        with self._device.changed:
            for work in works:
                self._works.remove(work)

    def abandon(self) -> None:
        """See :meth:`Worker.abandon`."""
        for work in self._works:
            self._works.remove(work)
            work.fail(stopped())


def _any_tokens(config: FlowMoConfig) -> Tokens:
    ids = np.zeros((config.code_length, config.ids_per_token), np.int32)
    return Tokens(ids=ids, group_bits=config.group_bits)


def _present(tensor: "Tensor | None") -> "Tensor":
    assert tensor is not None
    return tensor


@lru_cache(maxsize=256)
def _rows(sampler: SamplerConfig) -> tuple[int, ...]:
    """The rows of each step: two where it is guided."""
    return tuple(1 + is_guided(t, sampler) for t in time_grid(sampler)[:-1])


def _load(sampler: SamplerConfig) -> Load:
    rows = _rows(sampler)
    return Load(steps=len(rows), rows=sum(rows))
