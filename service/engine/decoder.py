"""The decoder's engine: one velocity batch a tick, its rows at any step of any request.

    dx/dt = v(x, t), t from 1 to 0: a step is one or, where it is guided, two rows of a batch; of a
    picture of several tiles, as many for each, which need not be in the same batch.

Work joins and leaves between ticks, which it shares as :class:`FairQueue` says: a short decode goes
before a long one, and a client that leaves frees its rows before the next tick.
"""

import asyncio
import bisect
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from flowmo.model.errors import TokenError
from flowmo.model.layout import PictureLayout
from flowmo.model.pictures import part_of
from flowmo.model.sampler import time_grid
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    DEFAULT_MAX_QUEUED_REQUESTS,
    NO_DEADLINE,
    Batching,
    Call,
    Decoded,
    DecodeOptions,
    Watch,
)
from flowmo.service.engine.decode_batches import DecodeBatches
from flowmo.service.engine.decode_ticks import MIN_ROWS, DecodeTicks
from flowmo.service.engine.decode_warm_up import seconds_of_batch, warm_up
from flowmo.service.engine.decode_work import DecodeWork, load_of, rows_of
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.observer import EngineObserver
from flowmo.service.engine.picture_work import (
    MAX_PIXELS_INSIDE,
    PictureWork,
    box_of,
    start_picture,
)
from flowmo.service.engine.recheck import Recheck
from flowmo.service.engine.runner import DecoderRunner
from flowmo.service.engine.schedule import (
    BucketTimes,
    Load,
    backlog,
    completion,
)
from flowmo.service.engine.work import (
    queue_full,
    refuse_late,
    result_by_deadline,
    stopped,
)
from flowmo.service.errors import DeadlineUnreachableError, OtherWeightsError

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
        queue: Who goes first; ticks are shared fairly without it. For comparison only.
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
        queue: FairQueue[DecodeWork] | None = None,
    ) -> None:
        assert runner.buckets[-1] >= MIN_ROWS, runner.buckets
        self._runner, self._device, self._observer = runner, device, observer
        self._max_queued, self._clock = max_queued_requests, clock
        self._works = FairQueue[DecodeWork]() if queue is None else queue
        self._left = deque[DecodeWork]()  # by their clients, since the last tick
        self._batches = DecodeBatches(self._works, batching)
        self._ticks = DecodeTicks(runner, device, observer, self._works, clock)
        self._recheck = Recheck(seconds_of_batch(runner), clock)
        self._pixels_inside = 0  # of the frames of pictures
        # Makes noise while the device computes.
        self._preparing = ThreadPoolExecutor(1, "flowmo-noise")

    @property
    def _times(self) -> BucketTimes | None:
        return self._ticks.times

    @property
    def queue_depth(self) -> int:
        """The number of decodes that wait or are under way."""
        return len(self._works) + self._ticks.ending

    @property
    def slots(self) -> int:
        """The rows of the largest batch that is used."""
        return (self._times or self._runner).buckets[-1]

    @property
    def computed_seconds(self) -> float:
        """The seconds that all work since the start takes at the best rate."""
        return self._ticks.computed_seconds

    @property
    def backlog_seconds(self) -> float:
        """The seconds until a slot of the largest batch is free: 0 while one is."""
        with self._device.changed:
            return self._backlog()

    async def decode(
        self,
        tokens: Tokens,
        options: DecodeOptions,
        call: Call = NO_DEADLINE,
        watch: Watch | None = None,
    ) -> Decoded:
        """Decode a picture.

        Args:
            tokens: A token set of the runner's model, of all tiles.
            options: The seed, the sampler, and whether fewer steps will do; the layout, and the
                region that is wanted. Of one tile the whole square comes.
            call: The deadline and the priority.
            watch: How progress is reported, it is not without it; previews are of all that is
                decoded.

        Raises:
            model.errors.ConfigError: The region is not inside the picture.
            model.errors.TokenError: The tokens have another shape than the model's, or the layout.
            OtherWeightsError: The tokens are for other weights.
            QueueFullError: As many decodes as there may be are inside.
            DeadlineUnreachableError: The decode would not be done in time.
            DeadlineExceededError: The decode was not done in time.
            ComputeError: A batch that the decode was in failed.
            EngineStoppedError: The device thread has ended.
        """
        loop = asyncio.get_running_loop()
        if options.layout is not None and options.layout.tiles > 1:
            return await self._decode_tiles(tokens, options, options.layout, call, watch)
        square = tokens.tile(0) if tokens.tile_count == 1 else tokens  # which is refused
        work = self.submit(square, options, call, watch, loop)
        return await result_by_deadline(work, lambda raised: self._requeue(work, raised))

    def submit(
        self,
        tokens: Tokens,
        options: DecodeOptions,
        call: Call = NO_DEADLINE,
        watch: Watch | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> DecodeWork:
        """Take a square in; see :meth:`decode`, which waits for its result, too.

        Returns:
            The decode, whose ``future`` has the result.
        """
        self._check_weights(options)
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
            self._add(work)
        return work

    async def _decode_tiles(
        self,
        tokens: Tokens,
        options: DecodeOptions,
        layout: PictureLayout,
        call: Call,
        watch: Watch | None,
    ) -> Decoded:
        """Decode a picture of several tiles; see :meth:`decode`."""
        self._check_weights(options)
        self._runner.check(tokens.tile(0))
        size = self._runner.info.image_size
        if (tokens.tile_count, size) != (layout.tiles, layout.tile_size):
            raise TokenError(
                f"tokens of {tokens.tile_count} tiles came; a picture of {layout.width} x "
                f"{layout.height} pixels takes {layout.tiles} of {layout.tile_size} pixels, and "
                f"those of the model have {size}"
            )
        part = part_of(layout, options.region)
        submitted, pixels = self._clock(), part.tiling.width * part.tiling.height
        with self._device.changed:
            if self._device.ended:
                raise stopped()
            options = self._admit(options, call, part.tiling.count, pixels)
            self._pixels_inside += pixels
        try:
            # Not where squares' noise is made, nor on the device's thread: it may take long.
            x, conditions = await asyncio.to_thread(
                start_picture, self._runner, tokens, layout, part, options.seed
            )
            work = PictureWork(
                call=call,
                submitted=submitted,
                tokens=tokens,
                options=options,
                watch=watch,
                loop=asyncio.get_running_loop(),
                times=time_grid(options.sampler),
                rows=rows_of(options.sampler),
                part=part,
                box=box_of(layout, part, options.region),
                x=x,
                conditions=conditions,
            )
            with self._device.changed:
                if self._device.ended:
                    raise stopped()
                self._add(work)
            return await result_by_deadline(work, lambda raised: self._requeue(work, raised))
        finally:
            with self._device.changed:
                self._pixels_inside -= pixels

    def _check_weights(self, options: DecodeOptions) -> None:
        weights = self._runner.info.fingerprint
        if options.weights not in {None, weights}:
            raise OtherWeightsError(
                f"the tokens are for the weights {options.weights}, these are {weights}"
            )

    def _add(self, work: DecodeWork) -> None:
        """Put new work into the queue. The lock is held."""
        work.future.add_done_callback(lambda _: self._notice(work))
        self._works.add(work)
        self._device.changed.notify_all()

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

    def _admit(
        self, options: DecodeOptions, call: Call, tiles: int = 1, pixels: int = 0
    ) -> DecodeOptions:
        """Choose the options that new work is taken with, or refuse it. The lock is held.

        Args:
            options: What is asked for.
            call: The deadline and the priority.
            tiles: The tiles that the picture has.
            pixels: The pixels of its frame; 0 of a square.
        """
        too_large = self._pixels_inside and self._pixels_inside + pixels > MAX_PIXELS_INSIDE
        if len(self._works) >= self._max_queued or (pixels and too_large):
            self._observer.refused("decoder", "queue-full")
            inside = f"{len(self._works)} decodes are inside"
            if self._pixels_inside:
                inside += f", pictures among them of {self._pixels_inside:,} pixels"
            raise queue_full(inside, self._backlog())
        load = load_of(options.sampler, tiles)
        what = "the decode" if tiles == 1 else f"the decode of {tiles} tiles"
        try:
            refuse_late(call, self._completion(call, load), what)
        except DeadlineUnreachableError:
            if (fewer := self._degraded(options, call, load)) is not None:
                self._observer.degraded(options.sampler.steps - fewer.sampler.steps)
                return fewer
            self._observer.refused("decoder", "deadline")
            if not self._is_busy and self._recheck.ask():
                self._device.changed.notify_all()
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
        ahead, rows = self._works.ahead(call, new.rows)
        return completion(self._works.parts, ahead, rows, new, self._times)

    def _backlog(self) -> float:
        if self._times is None:
            return 0.0
        return backlog(self._works.loads(), self._times)

    def warm_up(self) -> float:
        """See :meth:`Worker.warm_up`."""
        self._ticks.times, slowest = warm_up(self._runner)
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
                self._observer.cancelled("decoder", work.steps_left)

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
            self._recheck.run(self._times, self._device.health, "decoder")
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
        self._preparing.shutdown(wait=False, cancel_futures=True)
        ending = [work for tick in tuple(self._ticks.in_flight) for work in tick.done]
        for work in self._works:
            self._works.remove(work)
            work.fail(stopped())
        for work in ending:
            work.fail(stopped())
