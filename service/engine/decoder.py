"""The decoder's engine: one velocity batch a tick, its rows at any step of any request.

    dx/dt = v(x, t), t from 1 to 0: a step is one or, where it is guided, two rows of a batch; of a
    picture of several tiles, as many for each, which need not be in the same batch.

How work joins, leaves and is refused is :class:`StepEngine`'s.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

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
from flowmo.service.engine.decode_ticks import DecodeTicks
from flowmo.service.engine.decode_warm_up import seconds_of_batch, warm_up
from flowmo.service.engine.decode_work import DecodeWork, load_of, rows_of
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.observer import EngineKind, EngineObserver
from flowmo.service.engine.picture_work import (
    MAX_PIXELS_INSIDE,
    PictureWork,
    box_of,
    start_picture,
)
from flowmo.service.engine.runner import DecoderRunner
from flowmo.service.engine.schedule import BucketTimes
from flowmo.service.engine.step_engine import StepEngine
from flowmo.service.engine.work import result_by_deadline
from flowmo.service.errors import OtherWeightsError


class DecoderEngine(StepEngine[DecodeWork]):
    """Decodes for many clients.

    Args:
        runner: What computes the steps.
        device: The thread that the runner is called on.
        observer: Is notified of what happens.
        max_queued_requests: How many decodes may be inside at once; more are refused.
        batching: See :class:`StepEngine`.
        clock: Gives the time, in seconds.
        queue: Who goes first; ticks are shared fairly without it. For comparison only.
    """

    kind: ClassVar[EngineKind] = "decoder"
    plural = "decodes"

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
        works = FairQueue[DecodeWork]() if queue is None else queue
        super().__init__(
            DecodeTicks(runner, device, observer, works, clock),
            works,
            device,
            observer,
            buckets=runner.buckets,
            seconds_of=seconds_of_batch(runner),
            max_queued_requests=max_queued_requests,
            batching=batching,
            clock=clock,
        )
        self._runner = runner
        self._pixels_inside = 0  # of the frames of pictures
        # Makes noise while the device computes.
        self._preparing = ThreadPoolExecutor(1, "flowmo-noise")

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
            self._check_running()
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
            self._check_running()
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
                self._check_running()
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
        inside = ""
        if self._pixels_inside:
            inside = f", pictures among them of {self._pixels_inside:,} pixels"
        self._refuse_full(too_large=bool(pixels and too_large), more=inside)
        sampler = options.sampler
        load = load_of(sampler, tiles)
        what = "the decode" if tiles == 1 else f"the decode of {tiles} tiles"
        degrade = options.degrade and sampler.schedule != "explicit"
        steps = self._steps_in_time(call, load, what, degrade=degrade)
        if steps == load.steps:
            return options
        return replace(options, sampler=replace(sampler, steps=steps))

    def _measure(self) -> tuple[BucketTimes, float]:
        """See :meth:`StepEngine._measure`."""
        return warm_up(self._runner)

    def abandon(self) -> None:
        """See :meth:`Worker.abandon`."""
        self._preparing.shutdown(wait=False, cancel_futures=True)
        super().abandon()
