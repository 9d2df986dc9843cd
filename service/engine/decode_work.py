"""A decode inside the decoder's engine."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.sampler import is_guided, time_grid
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Decoded, DecodeOptions, Watch
from flowmo.service.engine.schedule import Load
from flowmo.service.engine.state_table import EulerStep
from flowmo.service.engine.step_ticks import StepTick
from flowmo.service.engine.step_work import StepWork

if TYPE_CHECKING:
    from torch import Tensor

# The rows of a picture from its top, uint8 [h, W, 3] each; filled when the device has made them.
Strips = Sequence[Pixels]


@dataclass(eq=False, slots=True, kw_only=True)
class DecodeWork(StepWork[Decoded]):
    """A decode that waits or is under way.

    Attributes:
        tokens: The token set to decode.
        options: The options that it was taken with.
        watch: How progress is reported, if it is.
        loop: The event loop that progress is reported in.
        times: N + 1 times; step i goes from times[i] to times[i + 1].
        start: Its noise and condition, which are made while it waits; None when the table has them.
        slot: The decode's slot in the table of states, from its first tick on.
    """

    tokens: Tokens
    options: DecodeOptions
    watch: Watch | None
    loop: asyncio.AbstractEventLoop | None
    times: tuple[float, ...]
    start: "Future[tuple[Tensor, Tensor]] | None" = None
    slot: int | None = None

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
class DecodeTick(StepTick[DecodeWork]):
    """A tick of decodes.

    Attributes:
        steps: The number of steps that each decode has made with it; None where it ends none, as of
            a picture whose other tiles are in other ticks.
        previews: The wanted clean-image estimates, by the index of their decode, in strips.
        pictures: The pictures of those that are done, in strips.
    """

    steps: Sequence[int | None]
    previews: dict[int, Strips]
    pictures: Sequence[Strips]


@lru_cache(maxsize=256)
def rows_of(sampler: SamplerConfig) -> tuple[int, ...]:
    """The rows of each step: two where it is guided."""
    return tuple(1 + is_guided(t, sampler) for t in time_grid(sampler)[:-1])


def load_of(sampler: SamplerConfig, tiles: int = 1) -> Load:
    """What a decode of so many tiles asks of the device."""
    rows = rows_of(sampler)
    return Load(steps=len(rows), rows=tiles * sum(rows))
