"""The ticks of the decoder's engine that the device was given: their making, their end, failures.

The device is given a tick while it makes the one before, so that it never waits for the host. What
a tick changes, it changes in the order of the calls: the next one may be given at once. What it
hands over, pictures and progress, it hands over when its marker is reached.
"""

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from flowmo.imaging.reading import Pixels
from flowmo.service.engine.calls import Decoded, DecodeProgress, Timings
from flowmo.service.engine.decode_work import DecodeTick, DecodeWork, Strips
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.failures import release_memory
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.observer import EngineObserver
from flowmo.service.engine.picture_work import PictureWork, TileRows
from flowmo.service.engine.runner import DecoderRunner
from flowmo.service.engine.schedule import BucketTimes
from flowmo.service.engine.state_table import EulerStep, StateTable
from flowmo.service.engine.work import without_bucket
from flowmo.service.errors import ComputeError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

# A guided step is two rows of one tick, so a runner must compute at least two.
MIN_ROWS = 2


class DecodeTicks:
    """The ticks in flight, used from the device thread.

    Args:
        runner: What computes the steps.
        device: The thread; its lock guards ``works``.
        observer: Is notified of what happens.
        works: What is inside the engine; what is done or has failed is removed.
        clock: Gives the time, in seconds.

    Attributes:
        times: How long a batch of each bucket takes; None before the warm-up.
        in_flight: The ticks, the oldest first.
        ending: The number of decodes whose last step is in flight.
        computed_seconds: The seconds that all ticks take at the best rate.
    """

    def __init__(
        self,
        runner: DecoderRunner,
        device: DeviceThread,
        observer: EngineObserver,
        works: FairQueue[DecodeWork],
        clock: Callable[[], float],
    ) -> None:
        self._runner, self._device, self._observer = runner, device, observer
        self._works, self._clock = works, clock
        self.times: BucketTimes | None = None
        self.in_flight = deque[DecodeTick]()
        self.ending = 0
        self.computed_seconds = 0.0
        self._table = StateTable(runner.device, runner.buckets[-1])
        self._finished_at = -math.inf

    def release(self, work: DecodeWork) -> None:
        """Forget the state of a decode that is done, or that nobody waits for."""
        if work.slot is not None:
            self._table.release(work.slot)
            work.slot = None
        work.start = None
        if isinstance(work, PictureWork):
            work.release()

    @torch.inference_mode()
    def begin(self, jobs: Sequence[DecodeWork], bucket: int) -> bool:
        """Give the device a tick.

        Args:
            jobs: The decodes in it, a picture as often as it has tiles in it.
            bucket: The size of the batch.

        Returns:
            Whether it could be given.
        """
        begin = self._clock()
        if not self._take_up(jobs, begin):
            return False
        squares, tiles = _parted(jobs)
        batch, rows = [*squares, *tiles], sum([work.ready_rows for work in jobs])
        made = sound = False
        try:
            steps = [work.euler_step() for work in squares]
            own, estimates = self._velocities(steps, tiles, bucket)
            ends: list[int | None] = []
            for work in squares:
                work.step += 1
                ends.append(work.step)
            made = True
            previews = self._blend(own, ends) if own is not None else {}
            sound = True
            if estimates:
                wanted = [index for index, step in enumerate(steps) if step.estimate]
                previews |= dict(
                    zip(wanted, self._pixels(torch.stack(list(estimates))), strict=True)
                )
            done = [work for work in batch if not work.steps_left]
            pictures = self._pictures(done) if done else []
            marker = self._runner.record()
        except Exception as error:  # noqa: BLE001
            # Of a picture it is not known which of its tiles are in.
            broken = list(tiles) if made and not sound else []
            self._failed(jobs, bucket, error, made=made, broken=broken)
            return False
        self.in_flight.append(
            DecodeTick(
                batch=batch,
                bucket=bucket,
                rows=rows,
                begun=begin,
                steps=ends,
                previews=previews,
                done=done,
                pictures=pictures,
                marker=marker,
            )
        )
        if done:
            with self._device.changed:
                self.ending += len(done)
                for work in done:
                    self._works.remove(work)
                    self.release(work)
        return True

    def _velocities(
        self, steps: Sequence[EulerStep], tiles: Mapping[PictureWork, int], bucket: int
    ) -> "tuple[TileRows | None, Sequence[Tensor]]":
        """Make a tick's batch, and the steps of its squares.

        Returns:
            The tiles' rows, if there are tiles, and the estimates that squares want.
        """
        if not tiles:
            return None, self._table.step(steps, bucket, self._runner.velocity)
        rows = TileRows(tuple(tiles.items()), bucket, self._runner.velocity)
        if not steps:
            rows.velocity(None, (), None)
            return rows, ()
        squares = sum(1 if step.guidance is None else 2 for step in steps)
        return rows, self._table.step(steps, squares, rows.velocity)

    def _blend(self, tiles: TileRows, ends: list[int | None]) -> dict[int, Strips]:
        """Blend a tick's tiles, and take the steps that they end; ``ends`` gets an entry for each.

        Returns:
            The estimates that are wanted, by the place of their picture in ``ends``.
        """
        previews: dict[int, Strips] = {}
        tiles.blend()
        for picture, _ in tiles.pictures:
            if picture.ready_parts:
                ends.append(None)
                continue
            if (preview := picture.finish_step(self._runner.pixels)) is not None:
                previews[len(ends)] = preview
            ends.append(picture.step)
        return previews

    def _take_up(self, jobs: Sequence[DecodeWork], now: float) -> bool:
        """Put the states of those on the device that have none there. Whether all are there."""
        for work in jobs:
            if work.slot is not None:
                continue
            work.begun = now if work.begun is None else work.begun
            try:
                if isinstance(work, PictureWork):
                    work.place(self._runner.device)
                elif work.start is not None:
                    # Others' noise may be made before its own: then it is made here.
                    start = (
                        self._runner.begin(work.tokens, work.options.seed)
                        if work.start.cancel()
                        else work.start.result()
                    )
                    work.slot, work.start = self._table.put(*start), None
            except Exception as error:  # noqa: BLE001
                # Smaller batches would make no room for it that lasts: the others go on without.
                self._device.health.failed("decoder", error)
                error.__traceback__ = None
                release_memory()
                with self._device.changed:
                    self._works.take_back(jobs)
                self._end([work], error)
                return False
        return True

    def _pixels(self, x: "Tensor") -> list[Strips]:
        return [[one] for one in self._runner.pixels(x)]

    def _pictures(self, done: Sequence[DecodeWork]) -> list[Strips]:
        """The pictures of decodes, squares before others."""
        slots = [work.slot for work in done if work.slot is not None]
        made = self._pixels(self._table.states(slots)) if slots else []
        for work in done:
            if isinstance(work, PictureWork):
                made.append(work.picture(self._runner.pixels))
        return made

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
            self._device.health.failed("decoder", error)
            self._end(list(dict.fromkeys(batches)), error)
            return
        self.in_flight.popleft()
        now = self._clock()
        # The device began with it when it had ended the one before.
        seconds = now - max(tick.begun, self._finished_at)
        self._finished_at = now
        self._device.health.worked("decoder")
        self.times.observe(tick.bucket, seconds)
        self.computed_seconds += self.times.least_seconds(tick.rows)
        self._observer.batch("decoder", rows=tick.rows, bucket=tick.bucket, seconds=seconds)
        for index, work in enumerate(tick.batch):
            step, took = tick.steps[index], seconds
            if isinstance(work, PictureWork):
                took = work.step_seconds = work.step_seconds + seconds
                if step is None:
                    continue
                work.step_seconds = 0.0
            work.seconds.append(took)
            if work.watch is not None and step is not None:
                _report(work, step, tick.previews.get(index))
        self.ending -= len(tick.done)
        for work, strips in zip(tick.done, tick.pictures, strict=True):
            assert work.begun is not None
            timings = Timings(
                queue=work.begun - work.submitted, run=now - work.begun, steps=tuple(work.seconds)
            )
            sampler = work.options.sampler
            work.succeed(Decoded(pixels=_joined(strips), sampler=sampler, timings=timings))

    def _failed(
        self,
        jobs: Sequence[DecodeWork],
        bucket: int,
        error: Exception,
        *,
        made: bool,
        broken: Sequence[DecodeWork],
    ) -> None:
        """Make a tick that was too large for the memory again in smaller ones; fail any other.

        Args:
            jobs: The decodes of the tick, as in :meth:`begin`.
            bucket: The size of the batch.
            error: What the runner raised.
            made: Whether the step was made, and only what comes after it failed.
            broken: Those whose states are lost in any case.
        """
        assert self.times is not None
        kind = self._device.health.failed("decoder", error)
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
            # A step that was made stays made; a decode whose last step was made cannot go on.
            batch = [work for work in batch if not work.steps_left or work in broken]
        if batch:
            self._end(batch, error)

    def _end(self, batch: Sequence[DecodeWork], error: Exception) -> None:
        """End decodes with a failure: it is their own affair, the thread serves the next ones."""
        self._observer.failed("decoder", len(batch), error)
        with self._device.changed:
            for work in batch:
                self._works.remove(work)
                self.release(work)
        for work in batch:
            work.fail(ComputeError("a step of this decode failed on the device; try again"))


def _parted(jobs: Sequence[DecodeWork]) -> tuple[list[DecodeWork], dict[PictureWork, int]]:
    """The squares of a tick, in the order of their rows, and the tiles of each picture."""
    squares = [work for work in jobs if not isinstance(work, PictureWork)]
    tiles: dict[PictureWork, int] = {}
    if len(squares) < len(jobs):
        for work in jobs:
            if isinstance(work, PictureWork):
                tiles[work] = tiles.get(work, 0) + 1
    if len(squares) > 1:
        # Those with guidance first, each group by its slots: few and large operations.
        squares.sort(key=lambda work: (-work.ready_rows, _slot(work)))
    return squares, tiles


def _slot(work: DecodeWork) -> int:
    assert work.slot is not None
    return work.slot


def _report(work: DecodeWork, step: int, preview: Strips | None) -> None:
    pixels = None if preview is None else _joined(preview)
    progress = DecodeProgress(step=step, steps=len(work.rows), preview=pixels)
    # The loop is closed when its server was stopped hard.
    with contextlib.suppress(RuntimeError):
        if work.loop is not None and work.watch is not None:
            work.loop.call_soon_threadsafe(work.watch.on_progress, progress)


def _joined(strips: Strips) -> Pixels:
    return strips[0] if len(strips) == 1 else np.concatenate(strips)
