"""What goes into a generator and what comes out of it: plain values, the same in every process."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import UPDATE_SECONDS, Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateOptions:
    """What a client may choose about the tokens of one new image.

    Attributes:
        class_number: The class; the prior's null class for none.
        seed: The seed of all its random numbers, 0 <= seed < 2^63.
        sampler: Steps, guidance and temperatures.
        degrade: Whether the engine may take fewer steps when the deadline cannot be met otherwise.
        known: The tokens of one square, of which some are kept; None generates all.
        kept: Which: bool [N], in the order of the ids.
        prior: The fingerprint of the prior that is meant; None takes any.
        patience: The seconds to wait for a replica of it, while an update is under way.
    """

    class_number: int
    seed: int
    sampler: PriorSamplerConfig
    degrade: bool = False
    known: Tokens | None = None
    kept: NDArray[np.bool_] | None = field(default=None, compare=False)
    prior: str | None = None
    patience: float = UPDATE_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The tokens of one new image.

    Attributes:
        tokens: Ids [K, D/G].
        sampler: The sampler that was used; fewer steps than asked for if ``degrade`` allowed it.
        prior: The fingerprint of the prior's weights.
        timings: Where the time went.
    """

    tokens: Tokens
    sampler: PriorSamplerConfig
    prior: str
    timings: Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateProgress:
    """One step of a generation is done.

    Attributes:
        step: The number of steps that are done, 1 after the first.
        steps: The number of steps that there will be.
        tokens: After the steps that asked for it: what is known so far, and at the other places
            what this step drew there and did not keep.
    """

    step: int
    steps: int
    tokens: Tokens | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateWatch:
    """How a generation reports its progress.

    Attributes:
        on_progress: Called in the event loop's thread after each step.
        previews: The steps, 1 for the first, after which the tokens so far are wanted.
    """

    on_progress: Callable[[GenerateProgress], None]
    previews: Collection[int] = field(default_factory=frozenset)
