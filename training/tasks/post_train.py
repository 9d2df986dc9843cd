"""Stage 1B: the sample of a whole chain is part of the loss (supplement A.2; SPEC)."""

from torch import Tensor

from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.flowmo import FlowMo
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.network import with_mask
from flowmo.training.config import AnyTrainConfig, LossWeights, TrainConfig
from flowmo.training.config.checks import require
from flowmo.training.evaluation.protocol import FID_PICTURES
from flowmo.training.loop.generators import Generators
from flowmo.training.tasks.chain import random_times, sample_chain
from flowmo.training.tasks.flow import Draws, Perceptual, draw, flow_loss, quantize, window
from flowmo.training.tasks.objective import LossTerm, Objective
from flowmo.training.tasks.task import Report, TrainingData
from flowmo.training.tasks.tokenizer import (
    TokenizerTask,
    perceptual_options,
    quantizer_weights,
    require_init,
    tokenizer_run,
)
from flowmo.training.tasks.validation import DISTANCES


def stage_1b(
    model: FlowMo,
    images: Tensor,
    draws: Draws,
    weights: LossWeights,
    perceptual: Perceptual | None = None,
    *,
    recompute: bool = True,
    side: int = 0,
) -> Objective:
    """Flow loss, and what differs between an image and the sample of a whole chain.

    The quantizer's terms are part of it only while the encoder trains; the paper freezes it.

    Args:
        model: in training form.
        images: [B, 3, S, S] in [-1, 1].
        draws: this micro-batch's random numbers, ``start`` and ``spacing`` among them.
        weights: The weights of the terms.
        perceptual: compares image and sample; None leaves that out.
        recompute: as in :func:`flowmo.training.tasks.chain.sample_chain`.
        side: The side of the square that is compared where the draws have a place for it.
    """
    assert draws.start is not None and draws.spacing is not None
    quantized, quantizer_terms, watched = quantize(model, images, draws, weights)
    flow, _ = flow_loss(model, images, quantized, draws, weights)
    terms = [flow, *quantizer_terms]
    sample = sample_chain(
        model, with_mask(quantized), draws.start, random_times(draws.spacing), recompute=recompute
    )
    error = (sample - images).square().mean()
    if perceptual is not None and weights.sample_perceptual > 0:
        seen = (window(each, draws.place, side) for each in (sample, images))
        distance = perceptual(*seen)
        terms.append(LossTerm("sample_perceptual", distance, weights.sample_perceptual))
    if weights.sample_mse > 0:
        terms.append(LossTerm("sample_mse", error, weights.sample_mse))
    else:
        watched = (*watched, ("sample_mse", error.detach()))
    return Objective(terms=tuple(terms), watched=watched)


def require_real_validation(config: TrainConfig) -> None:
    """Check that early stopping of stage 1B is decided by held-out data and a perceptual metric.

    The sample loss is a network's opinion, which the decoder learns to please (supplement A.2);
    PSNR goes on falling or rising beside it, and six photographs say little of either.

    Raises:
        ConfigError: It is not.
    """
    held_out = config.validation
    if held_out.patience is None:
        return
    require(
        len(held_out.paths) > 0,
        "stage 1B stops early by validation images that are not trained on, and none are named: "
        "set validation.paths (-s validation.paths=imagenet-val.tar), or train all steps with "
        "-s validation.patience=none",
    )
    require(
        held_out.metric in DISTANCES,
        f"stage 1B stops early by {', '.join(DISTANCES)}, got validation.metric="
        f"{held_out.metric!r}: PSNR and SSIM do not see what the perceptual loss does to pictures",
    )
    network = {"lpips": "lpips-vgg"}.get(held_out.metric, held_out.metric)
    require(
        network != config.perceptual.network or config.losses.sample_perceptual == 0,
        f"validation.metric={held_out.metric!r} is the network that is trained against, which "
        f"cannot say when its opinion is exploited: choose another of {', '.join(DISTANCES)}",
    )
    require(
        held_out.metric != "rfid" or held_out.count >= FID_PICTURES,
        f"validation.metric=rfid needs {FID_PICTURES:,} images or more, below which the "
        f"covariances are singular; got validation.count={held_out.count}",
    )


class PostTrainTask(TokenizerTask):
    """Stage 1B: a trained model learns through its own sampling chain."""

    name = "post-train"
    title = "stage 1B, post-training through the sampling chain"

    @classmethod
    def reads(cls, config: AnyTrainConfig) -> frozenset[str]:
        """The chain and its distances; the quantizer's losses while the encoder still trains."""
        run = tokenizer_run(config)
        quantizer = frozenset() if run.encoder_freeze_step == 0 else quantizer_weights(run)
        return (
            super().reads(config)
            | quantizer
            | perceptual_options(run, "losses.sample_perceptual")
            | {"losses.sample_mse", "post_train"}
        )

    @classmethod
    def check(cls, config: AnyTrainConfig) -> None:
        """It trains on from a checkpoint."""
        require_init(config)

    def open_data(self, report: Report) -> TrainingData:
        """Crops of the images of ``data.paths``; first what decides when to stop is looked at.

        Raises:
            ConfigError: The run stops early, and by what cannot tell when it should.
        """
        require_real_validation(self.config)
        assert self.config.init is not None
        stored = inspect_checkpoint(resolve_checkpoint(self.config.init)).dtype
        if stored != "float32":
            report(
                f"{self.config.init} holds {stored} weights, which training begins with; stage 1A "
                f"with export_precision=float32 exports its average itself"
            )
        return super().open_data(report)

    def draw(self, generators: Generators) -> Draws:
        """Also the first state and the spacing of the chain."""
        return draw(self.config, generators, chain_steps=self.config.post_train.steps)

    def objective(self, model: FlowMo, inputs: Tensor, draws: Draws) -> Objective:
        """See :func:`stage_1b`."""
        return stage_1b(
            model,
            inputs,
            draws,
            self.config.losses,
            self.perceptual,
            recompute=self.config.post_train.recompute,
            side=self.config.perceptual.window,
        )
