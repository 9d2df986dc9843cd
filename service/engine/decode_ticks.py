"""The ticks of the decoder's engine: how they are made, and what they hand over."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from flowmo.imaging.reading import Pixels
from flowmo.service.engine.calls import Decoded, DecodeProgress, Timings
from flowmo.service.engine.decode_work import DecodeTick, DecodeWork, Strips
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.observer import EngineKind, EngineObserver
from flowmo.service.engine.picture_work import PictureWork, TileRows
from flowmo.service.engine.runner import DecoderRunner
from flowmo.service.engine.state_table import EulerStep, StateTable
from flowmo.service.engine.step_ticks import StepTicks

if TYPE_CHECKING:
    from torch import Tensor


class DecodeTicks(StepTicks[DecodeWork, DecodeTick]):
    """The decoder's ticks.

    Args:
        runner: What computes the steps.
        device: See :class:`StepTicks`, as of the others.
        observer: Is notified of what happens.
        works: The decodes inside.
        clock: Gives the time, in seconds.
    """

    kind: ClassVar[EngineKind] = "decoder"
    what = "decode"

    def __init__(
        self,
        runner: DecoderRunner,
        device: DeviceThread,
        observer: EngineObserver,
        works: FairQueue[DecodeWork],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(device, observer, works, clock)
        self._runner = runner
        self._table = StateTable(runner.device, runner.buckets[-1])

    def release(self, work: DecodeWork) -> None:
        """See :meth:`StepTicks.release`."""
        if work.slot is not None:
            self._table.release(work.slot)
            work.slot = None
        work.start = None
        if isinstance(work, PictureWork):
            work.release()

    @torch.inference_mode()
    def begin(self, jobs: Sequence[DecodeWork], bucket: int) -> bool:
        """See :meth:`StepTicks.begin`; a picture comes as often as it has tiles in the tick."""
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
        self._launched(
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
                self._not_taken_up(work, jobs, error)
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

    def _hand_over(self, tick: DecodeTick, now: float, seconds: float) -> None:
        """See :meth:`StepTicks._hand_over`."""
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
        for work, strips in zip(tick.done, tick.pictures, strict=True):
            assert work.begun is not None
            timings = Timings(
                queue=work.begun - work.submitted, run=now - work.begun, steps=tuple(work.seconds)
            )
            sampler = work.options.sampler
            work.succeed(Decoded(pixels=_joined(strips), sampler=sampler, timings=timings))


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
