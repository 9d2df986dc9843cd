"""What goes into an engine and what comes out of it: plain values, the same in every process."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.tokens import Tokens

Priority = Literal["interactive", "batch"]
# See service.engine.decoder.DecoderEngine.
Batching = Literal["step", "request", "single"]
# Pictures inside one engine at once; more are refused.
DEFAULT_MAX_QUEUED_REQUESTS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What surrounds a piece of work.

    Attributes:
        deadline: when its answer is of no more use, in seconds of ``time.monotonic()``.
        priority: ``batch`` work lets younger interactive work pass it, for a bounded time.
    """

    deadline: float = math.inf
    priority: Priority = "interactive"

    @property
    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


# A rolling update exchanges a replica in less.
UPDATE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeOptions:
    """What a client may choose about a decode.

    Attributes:
        seed: of the starting noise, 0 <= seed < 2^63.
        sampler: grid and guidance.
        degrade: the engine may take fewer steps when the deadline cannot be met otherwise.
        weights: fingerprint of the model that the tokens are for; None does not say.
        patience: seconds to wait for a replica of these weights, while an update is under way.
    """

    seed: int
    sampler: SamplerConfig
    degrade: bool = False
    weights: str | None = None
    patience: float = UPDATE_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Where a piece of work spent its time, in seconds.

    Attributes:
        queue: before the device first took it up.
        run: from then to its result.
        steps: each step of a decode, waits between steps left out.
    """

    queue: float
    run: float
    steps: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Tokens of one picture, and the fingerprint of the model that made them."""

    tokens: Tokens
    weights: str
    timings: Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One picture.

    Attributes:
        pixels: uint8 [S, S, 3].
        sampler: what was used; fewer steps than asked for if ``degrade`` allowed it.
        timings: where the time went.
    """

    pixels: Pixels
    sampler: SamplerConfig
    timings: Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A step of a decode is done.

    Attributes:
        step: 1 for the first.
        steps: how many there will be.
        preview: the clean-image estimate, uint8 [S, S, 3], at the steps it was asked for.
    """

    step: int
    steps: int
    preview: Pixels | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """Somebody wants to see a decode's progress.

    Attributes:
        on_progress: called in the event loop's thread after each step.
        previews: steps, 1 for the first, whose clean-image estimate is wanted.
    """

    on_progress: Callable[[Progress], None]
    previews: Collection[int] = field(default_factory=frozenset)
