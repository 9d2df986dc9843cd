"""The stage 1B objective (supplement A.2; SPEC "Training objective")."""

from torch import Tensor

from flowmo.model.flowmo import FlowMo
from flowmo.model.network import with_mask
from flowmo.training.config import LossWeights
from flowmo.training.tasks.chain import random_times, sample_chain
from flowmo.training.tasks.objective import (
    Draws,
    LossTerm,
    Objective,
    Perceptual,
    flow_loss,
    quantize,
)


def stage_1b(
    model: FlowMo,
    images: Tensor,
    draws: Draws,
    weights: LossWeights,
    perceptual: Perceptual | None = None,
    *,
    recompute: bool = True,
) -> Objective:
    """Flow loss, and what differs between an image and the sample of a whole chain.

    The quantizer's terms are part of it only while the encoder trains; the paper freezes it.

    Args:
        model: in training form.
        images: [B, 3, S, S] in [-1, 1].
        draws: this micro-batch's random numbers, ``start`` and ``spacing`` among them.
        weights: of the terms.
        perceptual: compares image and sample; None leaves that out.
        recompute: as in :func:`flowmo.training.tasks.chain.sample_chain`.
    """
    assert draws.start is not None and draws.spacing is not None
    quantized, quantizer_terms, watched = quantize(model, images, draws, weights)
    flow, _ = flow_loss(model, images, quantized, draws, weights)
    terms = [flow, *(quantizer_terms if quantized.requires_grad else ())]
    sample = sample_chain(
        model, with_mask(quantized), draws.start, random_times(draws.spacing), recompute=recompute
    )
    error = (sample - images).square().mean()
    if perceptual is not None and weights.sample_perceptual > 0:
        distance = perceptual(sample, images)
        terms.append(LossTerm("sample_perceptual", distance, weights.sample_perceptual))
    if weights.sample_mse > 0:
        terms.append(LossTerm("sample_mse", error, weights.sample_mse))
    else:
        watched = (*watched, ("sample_mse", error.detach()))
    return Objective(terms=tuple(terms), watched=watched)
