"""The decoder's engine for pictures of any size: their tiles take turns with everybody's squares.

A picture of T tiles is T rows a step (2T where it is guided), which may be more than a batch holds:
the rows of a step are spread over ticks, and the step is taken when all of them are in. The state
is the whole frame, and the tiles' velocities are blended into one as they come (supplement C.2, see
:mod:`flowmo.model.tiled_sampling`).

    guaranteed to squares      while both wait, every other tick is theirs, and a tick of tiles is
                               no longer than theirs was: a picture of any size slows them down to
                               half their speed, and no further
    guaranteed to pictures     they take turns, a tick each: a small one is not behind a large one
    guaranteed to the device   the frames inside have at most MAX_PIXELS_INSIDE pixels, unless one
                               alone has more
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowmo.imaging.reading import Pixels
from flowmo.model.errors import TokenError
from flowmo.model.layout import PictureLayout
from flowmo.model.pictures import part_of
from flowmo.model.sampler import is_guided, noise, time_grid
from flowmo.model.tiling import Tile, TilingPart, axis_weights
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    NO_DEADLINE,
    Call,
    Decoded,
    DecodeOptions,
    DecodeProgress,
    Timings,
    Watch,
)
from flowmo.service.engine.decoder import DEGRADE_LIMIT, DEGRADE_SHARE, MIN_ROWS, DecoderEngine
from flowmo.service.engine.failures import release_memory
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

# Of all frames inside; a pixel takes 24 bytes, the state's and the velocity's.
MAX_PIXELS_INSIDE = 64_000_000
# Rows of a frame that are turned into bytes at once.
_STRIP = 256


@dataclass(eq=False, slots=True, kw_only=True)
class _Picture(Work[Decoded]):
    """A picture that waits or is under way.

    Attributes:
        tokens: The tokens of all its tiles.
        options: The options that it was taken with.
        watch: How progress is reported, if it is.
        loop: The event loop that progress is reported in.
        part: The tiles that are decoded.
        box: The rows and columns of their frame that are wanted.
        times: N + 1 times; step i goes from times[i] to times[i + 1].
        rows: The rows of a tile in each step, 1 or 2.
        x: The state, float32 [3, H, W].
        v: The velocity of the step under way, as far as its tiles are done.
        conditions: The condition of each tile that has been computed once.
        step: The number of steps that are done.
        tile: The number of tiles of the step under way that are done.
        step_seconds: The time of the step under way.
        seconds: The time of each step that is done.
    """

    tokens: Tokens
    options: DecodeOptions
    watch: Watch | None
    loop: asyncio.AbstractEventLoop
    part: TilingPart
    box: tuple[slice, slice]
    times: tuple[float, ...]
    rows: tuple[int, ...]
    x: "Tensor"
    v: "Tensor | None" = None
    conditions: "list[Tensor]" = field(default_factory=list)
    step: int = 0
    tile: int = 0
    step_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)

    @property
    def rows_left(self) -> int:
        """The network evaluations that are still to be made."""
        whole = sum(self.rows[self.step :]) * self.part.tiling.count
        done = self.tile * self.rows[self.step] if self.step < len(self.rows) else 0
        return whole - done


class PictureDecoderEngine(DecoderEngine):
    """Decodes squares and pictures of several tiles for many clients; see the top of this file."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._inside: list[_Picture] = []  # the one whose turn it is first
        self._pixels_inside = 0
        self._square_seconds = 0.0
        self._squares_turn = True

    @property
    def queue_depth(self) -> int:
        """The number of decodes that wait or are under way."""
        return super().queue_depth + len(self._inside)

    @property
    def backlog_seconds(self) -> float:
        """The seconds until all that is inside now would be done."""
        squares = super().backlog_seconds
        with self._device.changed:
            rows = sum(picture.rows_left for picture in self._inside)
            return squares + (self._times.least_seconds(rows) if self._times else 0.0)

    async def decode(
        self,
        tokens: Tokens,
        options: DecodeOptions,
        call: Call = NO_DEADLINE,
        watch: Watch | None = None,
    ) -> Decoded:
        """Decode a picture; see :meth:`DecoderEngine.decode`.

        Args:
            tokens: The tokens of all tiles.
            options: Among them the layout, and the region that is wanted. Of one tile the whole
                square comes.
            call: The deadline and the priority.
            watch: How progress is reported; previews are of all that is decoded.

        Raises:
            ConfigError: The region is not inside the picture.
            TokenError: The tokens have another shape than the model's.
            RequestError: As there.
        """
        layout = options.layout
        if layout is None or layout.tiles == 1:
            square = tokens.tile(0) if tokens.tile_count == 1 else tokens  # which is refused
            return await super().decode(square, options, call, watch)
        weights = self._runner.info.fingerprint
        if options.weights not in {None, weights}:
            raise OtherWeightsError(
                f"the tokens are for the weights {options.weights}, these are {weights}"
            )
        self._runner.check(tokens.tile(0))
        size = self._runner.info.image_size
        if (tokens.tile_count, size) != (layout.tiles, layout.tile_size):
            raise TokenError(
                f"tokens of {tokens.tile_count} tiles came; a picture of {layout.width} x "
                f"{layout.height} pixels takes {layout.tiles} of {layout.tile_size} pixels, and "
                f"those of the model have {size}"
            )
        part = part_of(layout, options.region)
        pixels = part.tiling.width * part.tiling.height
        with self._device.changed:
            if self._device.ended:
                raise stopped()
            options = self._admit_picture(options, call, part.tiling.count, pixels)
            self._pixels_inside += pixels
        try:
            # Not on the device's thread: of a large picture it takes as long as many ticks.
            x = await asyncio.to_thread(_start, layout, part, options.seed)
            work = _Picture(
                call=call,
                tokens=tokens,
                options=options,
                watch=watch,
                loop=asyncio.get_running_loop(),
                part=part,
                box=_box(layout, part, options),
                times=time_grid(options.sampler),
                rows=_rows(options),
                x=x,
            )
            with self._device.changed:
                if self._device.ended:
                    raise stopped()
                self._inside.append(work)
                self._device.changed.notify_all()
            return await result_by_deadline(work, lambda raised: setattr(work, "call", raised))
        finally:
            with self._device.changed:
                self._pixels_inside -= pixels

    def _admit_picture(
        self, options: DecodeOptions, call: Call, tiles: int, pixels: int
    ) -> DecodeOptions:
        """Choose the options that a picture is taken with, or refuse it. The lock is held."""
        inside = super().queue_depth + len(self._inside)
        too_large = self._inside and self._pixels_inside + pixels > MAX_PIXELS_INSIDE
        if inside >= self._max_queued or too_large:
            self._observer.refused("decoder", "queue-full")
            rows = sum(picture.rows_left for picture in self._inside)
            seconds = self._times.least_seconds(rows) if self._times else 0.0
            raise queue_full(
                f"{inside} decodes are inside, pictures among them of {self._pixels_inside:,} "
                f"pixels",
                seconds,
            )

        def seconds_of(options: DecodeOptions) -> float:
            if self._times is None:
                return 0.0
            own = sum(_rows(options)) * tiles
            others = sum(min(own, picture.rows_left) for picture in self._inside)
            # While there are squares, half of the time is theirs.
            share = 2.0 if super(PictureDecoderEngine, self).queue_depth else 1.0
            return share * self._times.least_seconds(own + others)

        try:
            refuse_late(call, seconds_of(options), f"the decode of {tiles} tiles")
        except DeadlineUnreachableError:
            sampler = options.sampler
            fewer = range(sampler.steps - 1, -(-sampler.steps // DEGRADE_LIMIT) - 1, -1)
            if options.degrade and sampler.schedule != "explicit":
                for steps in fewer:
                    smaller = replace(options, sampler=replace(sampler, steps=steps))
                    if seconds_of(smaller) <= DEGRADE_SHARE * call.remaining:
                        self._observer.degraded(sampler.steps - steps)
                        return smaller
            self._observer.refused("decoder", "deadline")
            raise
        return options

    def due(self) -> float | None:
        """See :meth:`Worker.due`."""
        squares = super().due()
        self._drop_pictures()
        return 0.0 if self._inside else squares

    def _drop_pictures(self) -> None:
        """Forget pictures that nobody waits for. The lock is held."""
        for work in [work for work in self._inside if work.future.cancelled()]:
            self._inside.remove(work)
            self._observer.cancelled("decoder", len(work.rows) - work.step)

    def run(self) -> None:
        """See :meth:`Worker.run`: one tick, of squares or of the tiles of a picture."""
        with self._device.changed:
            self._drop_pictures()
            squares = super().due() is not None
            work = self._inside[0] if self._inside else None
            if work is not None and not (squares and self._squares_turn):
                self._inside.append(self._inside.pop(0))
            else:
                work = None
        self._squares_turn = work is not None
        begin = time.monotonic()
        if work is None:
            super().run()
            self._square_seconds = time.monotonic() - begin
            return
        work.begun = begin if work.begun is None else work.begun
        rows = work.rows[work.step]
        count, bucket = self._choose(work, rows, longest=self._square_seconds if squares else None)
        try:
            finished = self._compute(work, count, bucket)
            seconds = time.monotonic() - begin
            pixels = self._frame_pixels(work, work.x) if finished else None
        except Exception as error:  # noqa: BLE001
            self._failed_picture(work, bucket, error)
            return
        assert self._times is not None
        self._device.health.worked("decoder")
        self._times.observe(bucket, seconds)
        self._computed_seconds += self._times.least_seconds(count * rows)
        self._observer.batch("decoder", rows=count * rows, bucket=bucket, seconds=seconds)
        if pixels is not None:
            self._end_picture(work)
            now = time.monotonic()
            timings = Timings(
                queue=work.begun - work.submitted, run=now - work.begun, steps=tuple(work.seconds)
            )
            work.succeed(Decoded(pixels=pixels, sampler=work.options.sampler, timings=timings))

    def _choose(self, work: _Picture, rows: int, *, longest: float | None) -> tuple[int, int]:
        """How many tiles are computed in this tick, and in which bucket."""
        times = self._times
        assert times is not None
        left = work.part.tiling.count - work.tile
        fitting = [bucket for bucket in times.buckets if bucket >= rows]
        if longest is not None:
            quick = [bucket for bucket in fitting if times.seconds(bucket) <= longest]
            fitting = quick or fitting[:1]

        def rate(bucket: int) -> float:
            return min(left, bucket // rows) / times.seconds(bucket)

        bucket = max(fitting, key=rate)
        return min(left, bucket // rows), bucket

    @torch.inference_mode()
    def _compute(self, work: _Picture, count: int, bucket: int) -> bool:
        """Compute the next tiles of a step, and take the step if they were its last.

        Returns:
            Whether the picture is finished.
        """
        begin = time.monotonic()
        tiling, t = work.part.tiling, work.times[work.step]
        tiles = [tiling[index] for index in range(work.tile, work.tile + count)]
        conditions = [self._condition(work, tile) for tile in tiles]
        x = torch.stack([work.x[:, tile.box[0], tile.box[1]] for tile in tiles])
        condition = torch.stack(conditions)
        x = x.to(condition.device)
        if work.rows[work.step] == MIN_ROWS:
            x = torch.cat([x, x])
            condition = torch.cat([condition, torch.zeros_like(condition)])
        if missing := bucket - len(x):
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
            condition = torch.cat([condition, condition[-1:].expand(missing, -1, -1)])
        made = self._runner.velocity(x, [t] * bucket, condition)
        own = made[:count]
        if work.rows[work.step] == MIN_ROWS:
            null = made[count : 2 * count]
            own = null + work.options.sampler.guidance * (own - null)
        self._blend(work, tiles, own)
        self._runner.synchronize()
        work.tile += count
        work.step_seconds += time.monotonic() - begin
        if work.tile < tiling.count:
            return False
        self._take_step(work, t)
        return work.step == len(work.rows)

    def _condition(self, work: _Picture, tile: Tile) -> "Tensor":
        """The condition of a tile, [K, D + 1] on the device."""
        if tile.index == len(work.conditions):
            tokens = work.tokens.tile(work.part.numbers[tile.index])
            work.conditions.append(self._runner.begin(tokens, 0)[1])
        return work.conditions[tile.index]

    def _blend(self, work: _Picture, tiles: Sequence[Tile], made: "Tensor") -> None:
        tiling = work.part.tiling
        if work.v is None:
            work.x = work.x.to(made.device)
            work.v = torch.zeros_like(work.x)
        across = torch.from_numpy(axis_weights(tiling.lefts, tiling.size)).to(work.v)
        down = torch.from_numpy(axis_weights(tiling.tops, tiling.size)).to(work.v)
        for tile, v in zip(tiles, made.unbind(0), strict=True):
            row, column = divmod(tile.index, tiling.columns)
            work.v[:, tile.box[0], tile.box[1]] += v * down[row][:, None] * across[column]

    def _take_step(self, work: _Picture, t: float) -> None:
        assert work.v is not None
        t_next = work.times[work.step + 1]
        work.step += 1
        work.tile = 0
        work.seconds.append(work.step_seconds)
        work.step_seconds = 0.0
        preview = None
        if work.watch is not None and work.step in work.watch.previews:
            preview = self._frame_pixels(work, work.x, work.v, t)
        work.x.sub_(work.v.mul_(t - t_next))
        work.v.zero_()
        if work.watch is not None:
            progress = DecodeProgress(step=work.step, steps=len(work.rows), preview=preview)
            with contextlib.suppress(RuntimeError):  # the loop of a server that was stopped hard
                work.loop.call_soon_threadsafe(work.watch.on_progress, progress)

    def _frame_pixels(
        self, work: _Picture, x: "Tensor", v: "Tensor | None" = None, t: float = 0.0
    ) -> Pixels:
        """What is wanted of a state (less t v, the estimate), some rows at a time."""
        rows, columns = work.box
        pixels = np.empty((rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8)
        for top in range(rows.start, rows.stop, _STRIP):
            strip = slice(top, min(top + _STRIP, rows.stop))
            values = x[:, strip, columns]
            if v is not None:
                values = values - t * v[:, strip, columns]
            pixels[strip.start - rows.start : strip.stop - rows.start] = self._runner.pixels(
                values[None]
            )[0]
        return pixels

    def _failed_picture(self, work: _Picture, bucket: int, error: Exception) -> None:
        """Compute tiles that were too many for the memory again in fewer; fail anything else."""
        assert self._times is not None
        kind = self._device.health.failed("decoder", error)
        smaller = without_bucket(self._times, bucket, least=MIN_ROWS)
        if kind == "memory" and smaller is not None and work.step < len(work.rows):
            logger.warning(
                "%d tiles do not fit into the device's memory; batches have at most %d rows from "
                "now on",
                bucket,
                smaller.buckets[-1],
            )
            with self._device.changed:
                self._times = smaller
            error.__traceback__ = None  # it holds the batch's tensors
            release_memory()
            return
        self._observer.failed("decoder", 1, error)
        self._end_picture(work)
        work.fail(ComputeError("a step of this decode failed on the device; try again"))

    def _end_picture(self, work: _Picture) -> None:
        with self._device.changed:
            if work in self._inside:
                self._inside.remove(work)

    def abandon(self) -> None:
        """See :meth:`Worker.abandon`."""
        super().abandon()
        while self._inside:
            self._inside.pop().fail(stopped())


def _rows(options: DecodeOptions) -> tuple[int, ...]:
    return tuple(1 + is_guided(t, options.sampler) for t in time_grid(options.sampler)[:-1])


def _start(layout: PictureLayout, part: TilingPart, seed: int) -> "Tensor":
    """The part's noise out of the whole picture's, float32 [3, h, w] on the CPU."""
    width, height = layout.tiling.frame
    x = noise([seed], (3, height, width))[0]
    tiling = part.tiling
    if tiling.frame == (width, height):
        return x
    bottom, right = part.top + tiling.height, part.left + tiling.width
    return x[:, part.top : bottom, part.left : right].clone()


def _box(layout: PictureLayout, part: TilingPart, options: DecodeOptions) -> tuple[slice, slice]:
    left, top, width, height = options.region or (0, 0, layout.width, layout.height)
    x, y = left - part.left, top - part.top
    return slice(y, y + height), slice(x, x + width)
