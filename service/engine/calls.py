"""What goes into an engine and what comes out of it: plain values, the same in every process."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.layout import PictureLayout
from flowmo.model.tokens import Tokens

if TYPE_CHECKING:
    from flowmo.service.engine.shared_calls import SharedCall

# Left, top, width and height in pixels; as model.pictures has it, which needs torch.
Region = tuple[int, int, int, int]
Priority = Literal["interactive", "batch"]
# See service.engine.decoder.DecoderEngine.
Batching = Literal["step", "request", "single"]
# Pictures inside one engine at once; more are refused.
DEFAULT_MAX_QUEUED_REQUESTS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """The circumstances in which a piece of work is asked for.

    Attributes:
        deadline: When the answer is of no more use, in seconds of ``time.monotonic()``.
        priority: ``batch`` work has a smaller share beside interactive work.
        tenant: Who asks: the name of an API key, None where there are none. Each has a share of its
            own.
        weight: The tenant's share beside other tenants', above 0.
        shared: Says when others come to wait for the same work; None where nobody can.
    """

    deadline: float = math.inf
    priority: Priority = "interactive"
    tenant: str | None = None
    weight: float = 1.0
    shared: "SharedCall | None" = field(default=None, compare=False, repr=False)

    @property
    def remaining(self) -> float:
        """The seconds until the deadline; negative when it has passed."""
        return self.deadline - time.monotonic()


# Work that may take as long as it does.
NO_DEADLINE = Call()

# A rolling update exchanges a replica in less.
UPDATE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeOptions:
    """What a client may choose about a decode.

    Attributes:
        seed: The seed of the starting noise, 0 <= seed < 2^63.
        sampler: The time grid and guidance.
        degrade: Whether the engine may take fewer steps when the deadline cannot be met otherwise.
        weights: The fingerprint of the weights that the tokens are for; None takes any.
        patience: The seconds to wait for a replica of these weights, while an update is under way.
        layout: The picture and its tiles; one square without it.
        region: Left, top, width and height of the part that is decoded of a picture of several
            tiles; all by default.
    """

    seed: int
    sampler: SamplerConfig
    degrade: bool = False
    weights: str | None = None
    patience: float = UPDATE_SECONDS
    layout: PictureLayout | None = None
    region: Region | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Where a piece of work spent its time, in seconds.

    Attributes:
        queue: The wait until the device first took the work up.
        run: The time from then to the result.
        steps: The time of each step of a decode, without the waits between steps.
    """

    queue: float
    run: float
    steps: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """One encoded picture.

    Attributes:
        tokens: The picture's token set.
        weights: The fingerprint of the weights that made it.
        timings: Where the time went.
    """

    tokens: Tokens
    weights: str
    timings: Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One decoded picture.

    Attributes:
        pixels: uint8 [S, S, 3]; of several tiles the picture or its region, [H, W, 3].
        sampler: The sampler that was used; fewer steps than asked for if ``degrade`` allowed it.
        timings: Where the time went.
    """

    pixels: Pixels
    sampler: SamplerConfig
    timings: Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeProgress:
    """One step of a decode is done.

    Attributes:
        step: The number of steps that are done, 1 after the first.
        steps: The number of steps that there will be.
        preview: The clean-image estimate, uint8 of the result's shape, after the steps that asked
            for it.
    """

    step: int
    steps: int
    preview: Pixels | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """How a decode reports its progress.

    Attributes:
        on_progress: Called in the event loop's thread after each step.
        previews: The steps, 1 for the first, after which the clean-image estimate is wanted.
    """

    on_progress: Callable[[DecodeProgress], None]
    previews: Collection[int] = field(default_factory=frozenset)
