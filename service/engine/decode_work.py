"""A decode inside the decoder's engine."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.sampler import is_guided, time_grid
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Decoded, DecodeOptions, Watch
from flowmo.service.engine.runner import Marker
from flowmo.service.engine.schedule import Load
from flowmo.service.engine.state_table import EulerStep
from flowmo.service.engine.work import Work

if TYPE_CHECKING:
    from torch import Tensor

# The rows of a picture from its top, uint8 [h, W, 3] each; filled when the device has made them.
Strips = Sequence[Pixels]


@dataclass(eq=False, slots=True, kw_only=True)
class DecodeWork(Work[Decoded]):
    """A decode that waits or is under way.

    Attributes:
        tokens: The token set to decode.
        options: The options that it was taken with.
        watch: How progress is reported, if it is.
        loop: The event loop that progress is reported in.
        times: N + 1 times; step i goes from times[i] to times[i + 1].
        rows: The rows of each step, 1 or 2.
        start: Its noise and condition, which are made while it waits; None when the table has them.
        step: The number of steps that are done.
        slot: The decode's slot in the table of states, from its first tick on.
        seconds: The time of each step that is done.
    """

    tokens: Tokens
    options: DecodeOptions
    watch: Watch | None
    loop: asyncio.AbstractEventLoop | None
    times: tuple[float, ...]
    rows: tuple[int, ...]
    start: "Future[tuple[Tensor, Tensor]] | None" = None
    step: int = 0
    slot: int | None = None
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
    def ready_parts(self) -> int:
        """See :class:`Job`."""
        return 1

    @property
    def rows_left(self) -> int:
        """See :class:`Job`."""
        return sum(self.rows[self.step :])

    @property
    def most_rows(self) -> int:
        """The most rows that a step has."""
        return max(self.rows)

    def euler_step(self) -> EulerStep:
        """The step that is made next; the decode has its slot."""
        assert self.slot is not None
        return EulerStep(
            self.slot,
            self.times[self.step],
            self.times[self.step + 1],
            self.options.sampler.guidance if self.ready_rows > 1 else None,
            self.watch is not None and self.step + 1 in self.watch.previews,
        )


@dataclass(eq=False, slots=True, kw_only=True)
class DecodeTick:
    """A tick that the device was given.

    Attributes:
        batch: The decodes that have rows in it.
        bucket: The size of the batch.
        rows: The rows of it that are no padding.
        begun: The time at which the device was given it.
        steps: The number of steps that each decode has made with it; None where it ends none, as of
            a picture whose other tiles are in other ticks.
        previews: The wanted clean-image estimates, by the index of their decode, in strips.
        done: The decodes whose last step it makes.
        pictures: Their pictures, in strips.
        marker: Is reached when the device has done it; None when it has.
    """

    batch: Sequence[DecodeWork]
    bucket: int
    rows: int
    begun: float
    steps: Sequence[int | None]
    previews: dict[int, Strips]
    done: Sequence[DecodeWork]
    pictures: Sequence[Strips]
    marker: Marker | None


@lru_cache(maxsize=256)
def rows_of(sampler: SamplerConfig) -> tuple[int, ...]:
    """The rows of each step: two where it is guided."""
    return tuple(1 + is_guided(t, sampler) for t in time_grid(sampler)[:-1])


def load_of(sampler: SamplerConfig, tiles: int = 1) -> Load:
    """What a decode of so many tiles asks of the device."""
    rows = rows_of(sampler)
    return Load(steps=len(rows), rows=tiles * sum(rows))
