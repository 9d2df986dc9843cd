"""Stage 1A: flow loss, quantizer losses, perceptual loss of the one-step estimate (SPEC)."""

import torch
from torch import Tensor

from flowmo.model.flowmo import FlowMo
from flowmo.training.config import AnyTrainConfig, LossWeights, PerceptualConfig
from flowmo.training.loop.generators import Generators
from flowmo.training.tasks.flow import Draws, Perceptual, draw, flow_loss, quantize, window
from flowmo.training.tasks.objective import LossTerm, Objective
from flowmo.training.tasks.tokenizer import (
    TokenizerTask,
    perceptual_options,
    quantizer_weights,
    tokenizer_run,
)


def stage_1a(
    model: FlowMo,
    images: Tensor,
    draws: Draws,
    weights: LossWeights,
    perceptual: Perceptual | None = None,
    options: PerceptualConfig | None = None,
) -> Objective:
    """Flow loss, quantizer losses and perceptual loss of one micro-batch.

    Args:
        model: in training form.
        images: [B, 3, S, S] in [-1, 1].
        draws: this micro-batch's random numbers.
        weights: The weights of the terms.
        perceptual: compares the image with its one-step estimate x_t - t v; None leaves that out.
        options: which part of the images is compared, and at which times; all by default.
    """
    quantized, terms, watched = quantize(model, images, draws, weights)
    flow, estimate = flow_loss(model, images, quantized, draws, weights)
    terms = (flow, *terms)
    if perceptual is not None and weights.perceptual > 0:
        options = options or PerceptualConfig()
        if options.below < 1.0:  # the distance of an image to itself is 0, and has no gradient
            near = (draws.t <= options.below)[:, None, None, None]
            estimate = torch.where(near, estimate, images)
        seen = (window(each, draws.place, options.window) for each in (estimate, images))
        term = LossTerm("perceptual", perceptual(*seen), weights.perceptual)
        terms = (*terms, term)
    return Objective(terms=terms, watched=watched)


class PretrainTask(TokenizerTask):
    """Stage 1A: encoder and decoder learn together, from random weights or from a checkpoint."""

    name = "pretrain"
    title = "stage 1A, pre-training"

    @classmethod
    def reads(cls, config: AnyTrainConfig) -> frozenset[str]:
        """The flow, the quantizer's losses, and the perceptual loss of the one-step estimate."""
        run = tokenizer_run(config)
        return (
            super().reads(config)
            | quantizer_weights(run)
            | perceptual_options(run, "losses.perceptual")
            | {"recompute"}
        )

    def build_model(self) -> FlowMo:
        """Its blocks are computed again in the backward pass if the run says so."""
        model = super().build_model()
        for half in (model.encoder, model.decoder):
            half.recompute = self.config.recompute == "blocks"
        return model

    def draw(self, generators: Generators) -> Draws:
        """Times, noise, dropout, and the posterior's noise of a Gaussian latent."""
        return draw(self.config, generators)

    def objective(self, model: FlowMo, inputs: Tensor, draws: Draws) -> Objective:
        """See :func:`stage_1a`."""
        config = self.config
        return stage_1a(
            model, inputs, draws, config.losses, self.perceptual, options=config.perceptual
        )
