"""Drawing ids as pure functions of a logits callable (paper A.3). Nothing here knows the network.

One step: the logits of all places, guided and cooled; an id is drawn at each masked place; those
of them that are most certain stay, and the others are masked again. All random numbers come from
one generator for each row, on the CPU, so that neither the device nor the other rows of a batch
change what a row draws.

Shape legend: B rows, N ids an image, V = 2^G ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.model.prior.schedule import reveal_counts

_TINY = 1e-20


class Logits(Protocol):
    """Logits of the ids of rows."""

    def __call__(self, ids_BN: Tensor, /) -> Tensor:
        """[B, N, V] for ids [B, N], of which some are the mask id."""


class ConditionalLogits(Protocol):
    """Logits of the ids of rows that have one class each."""

    def __call__(self, ids_BN: Tensor, classes_B: Tensor, /) -> Tensor:
        """[B, N, V] for ids [B, N] and classes [B]."""


@dataclass(frozen=True, slots=True)
class PriorStep:
    """What an observer sees after a step.

    Attributes:
        step: The number of the step, 1 for the first.
        steps: How many steps there are.
        ids: [B, N] after the step; what is not known yet is the mask id.
        drawn: [B, N], the same with what this step drew in the places that it did not keep.
    """

    step: int
    steps: int
    ids: Tensor = field(repr=False)
    drawn: Tensor = field(repr=False)


Observer = Callable[[PriorStep], None]


def rows_of_guidance(guidance: float) -> int:
    """The rows that a step of one sample costs: 2, or 1 where the weight is 0 or 1."""
    return 1 if guidance in (0.0, 1.0) else 2


def guided(
    logits: ConditionalLogits, classes_B: Tensor, null_class: int, guidance: float
) -> Logits:
    """Logits shifted by the difference that the class makes: l_null + w (l_class - l_null).

    A guided step is one call with twice the rows, never two calls.

    Args:
        logits: The network.
        classes_B: The class of each row, int [B].
        null_class: The number of the null class.
        guidance: w >= 0; 1 asks for the class alone and 0 for the null class alone, each with one
            row a sample.

    Raises:
        ConfigError: The weight is negative or no number.
    """
    if not 0 <= guidance < float("inf"):
        raise ConfigError(f"guidance must be a number of at least 0, got {guidance!r}")
    null_B = torch.full_like(classes_B, null_class)
    if rows_of_guidance(guidance) == 1:
        chosen = classes_B if guidance == 1.0 else null_B
        return lambda ids: logits(ids, chosen)
    both = torch.cat([classes_B, null_B])

    def shifted(ids_BN: Tensor) -> Tensor:
        with_class, without = logits(torch.cat([ids_BN, ids_BN]), both).chunk(2)
        return without + guidance * (with_class - without)

    return shifted


def masked_start(
    rows: int,
    length: int,
    mask_id: int,
    *,
    known: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """The ids before the first step: all masked, or all but those to keep.

    Args:
        rows: B.
        length: N.
        mask_id: V.
        known: Ids [B, N] or [N] in 0 ... V - 1 of which some are kept; none by default.
        keep: Bool of the same shape: which.

    Returns:
        int64 [B, N].

    Raises:
        TokenError: Only one of ``known`` and ``keep`` came, or shapes or ids do not fit.
    """
    if (known is None) != (keep is None):
        raise TokenError("editing takes both the ids and a mask that says which of them to keep")
    if known is None or keep is None:
        return torch.full((rows, length), mask_id, dtype=torch.int64)
    if known.shape != keep.shape or known.shape[-1] != length or known.ndim > 2:
        raise TokenError(
            f"ids and the mask of those to keep must both be [{length}] or [{rows}, {length}], got "
            f"{list(known.shape)} and {list(keep.shape)}"
        )
    if known.ndim == 2 and len(known) != rows:
        raise TokenError(f"ids of {len(known)} rows came for {rows} samples")
    kept = known[keep.bool()]
    if len(kept) and not 0 <= int(kept.min()) <= int(kept.max()) < mask_id:
        raise TokenError(
            f"ids to keep must lie in 0 ... {mask_id - 1}, got {int(kept.min())} ... "
            f"{int(kept.max())}"
        )
    return torch.where(keep.bool(), known.long(), mask_id).expand(rows, length).clone()


def temperature_at(config: PriorSamplerConfig, step: int, steps: int) -> float:
    """The softmax temperature of a step, 1 for the first of ``steps``."""
    first, last = config.annealing
    progress = 0.0 if steps == 1 else (step - 1) / (steps - 1)
    return config.temperature * (first + (last - first) * progress)


def randomness_at(config: PriorSamplerConfig, step: int, steps: int) -> float:
    """The scale of the noise on the confidences of a step; 0 for the last."""
    return config.randomness * (1.0 - step / steps)


def uniforms(generators: Sequence[torch.Generator], length: int) -> Tensor:
    """The random numbers of one step, float32 [B, 2, N]: for the ids, and for the order."""
    return torch.stack([torch.rand(2, length, generator=one) for one in generators])


def draw_ids(
    logits_BNV: Tensor, temperature_B: Tensor, uniform_BN: Tensor
) -> tuple[Tensor, Tensor]:
    """An id for every place from softmax(logits / temperature), by the inverse of its sums.

    Args:
        logits_BNV: Any floating dtype.
        temperature_B: Of each row; 0 takes the most probable id, of equals the first.
        uniform_BN: One number in [0, 1) for each place.

    Returns:
        The ids, int64 [B, N], and the logarithms of their probabilities, float32 [B, N]; at
        temperature 0 those of temperature 1.
    """
    logits_BNV = logits_BNV.float()
    cold = (temperature_B == 0).to(logits_BNV.device)[:, None]
    divisor = temperature_B.to(logits_BNV.device)[:, None, None].masked_fill(cold[..., None], 1.0)
    log_p = (logits_BNV / divisor).log_softmax(-1)
    sums = log_p.exp().cumsum(-1)
    # The last sum is 1 but for rounding; the draw must not fall beyond it.
    wanted = uniform_BN.to(sums.device)[..., None] * sums[..., -1:]
    ids_BN = (sums <= wanted).sum(-1).clamp(max=logits_BNV.shape[-1] - 1)
    ids_BN = torch.where(cold, logits_BNV.argmax(-1), ids_BN)
    return ids_BN, log_p.gather(-1, ids_BN[..., None])[..., 0]


def unmask(
    ids_BN: Tensor,
    logits_BNV: Tensor,
    *,
    counts_B: Tensor,
    mask_id: int,
    temperature_B: Tensor,
    randomness_B: Tensor,
    uniform_B2N: Tensor,
) -> tuple[Tensor, Tensor]:
    """One step: draw ids at the masked places, and keep the most certain of them.

    A place's certainty is the logarithm of the probability of what was drawn there plus Gumbel
    noise.

    Args:
        ids_BN: The ids before the step.
        logits_BNV: Their logits.
        counts_B: How many ids each row keeps, at most as many as are masked.
        mask_id: V.
        temperature_B: The softmax temperature of each row.
        randomness_B: The scale of each row's Gumbel noise.
        uniform_B2N: What :func:`uniforms` gave.

    Returns:
        The ids after the step, and the same with all that was drawn; int64 [B, N] each.
    """
    masked = ids_BN == mask_id
    drawn, log_p = draw_ids(logits_BNV, temperature_B, uniform_B2N[:, 0])
    drawn = torch.where(masked, drawn, ids_BN)
    noise = -torch.log(-torch.log(uniform_B2N[:, 1].clamp(_TINY, 1 - 1e-7)))
    certainty = log_p + (randomness_B[:, None] * noise).to(log_p.device)
    certainty = certainty.masked_fill(~masked, -torch.inf)
    # Stable, so that equal certainties are taken from the first place on, on every device.
    order = certainty.argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    kept = masked & (rank < counts_B.to(rank.device)[:, None])
    return torch.where(kept, drawn, ids_BN), drawn


def sample_ids(
    logits: Logits,
    start_BN: Tensor,
    *,
    mask_id: int,
    config: PriorSamplerConfig,
    generators: Sequence[torch.Generator],
    observer: Observer | None = None,
) -> Tensor:
    """Find every masked id.

    Args:
        logits: The network, guided perhaps (:func:`guided`).
        start_BN: What :func:`masked_start` gave, on the network's device.
        mask_id: V.
        config: Steps, schedule and temperatures; its guidance is the caller's business.
        generators: One on the CPU for each row.
        observer: A function that is called after each step.

    Returns:
        int64 [B, N], none of them masked; what was known at the start is unchanged.

    Raises:
        TokenError: There is not one generator for each row.
    """
    if len(generators) != len(start_BN):
        raise TokenError(
            f"{len(generators)} generators came for {len(start_BN)} rows; pass one each"
        )
    ids_BN = start_BN
    unknown = (start_BN == mask_id).sum(-1).tolist()
    # A row with few unknown ids is done earlier than the others.
    plans = [reveal_counts(n, config.steps, config.schedule) for n in unknown]
    steps = max(map(len, plans), default=0)
    for step in range(1, steps + 1):
        # By each row's own number of steps, so that its batch-mates change nothing.
        own = [(step, len(plan)) if step <= len(plan) else (1, 1) for plan in plans]
        counts = [plan[step - 1] if step <= len(plan) else 0 for plan in plans]
        ids_BN, drawn = unmask(
            ids_BN,
            logits(ids_BN),
            counts_B=torch.tensor(counts),
            mask_id=mask_id,
            temperature_B=torch.tensor([temperature_at(config, *one) for one in own]),
            randomness_B=torch.tensor([randomness_at(config, *one) for one in own]),
            uniform_B2N=uniforms(generators, ids_BN.shape[-1]),
        )
        if observer is not None:
            observer(PriorStep(step=step, steps=steps, ids=ids_BN, drawn=drawn))
    return ids_BN
