"""What all tasks that train a FlowMo tokenizer share: everything but the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import cast

import torch
from torch import Tensor, nn

from flowmo.imaging.tensors import psnr_of_images, to_model_range
from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.checkpoint_files import MODEL_TYPE
from flowmo.model.config import FlowMoConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.hub import resolve_checkpoint
from flowmo.training.checkpointing.initial import load_initial
from flowmo.training.config import AnyTrainConfig, TrainConfig
from flowmo.training.config.checks import require
from flowmo.training.data.batches import Batch, fixed_images
from flowmo.training.data.index import ImageIndex
from flowmo.training.data.training_images import TrainingImages
from flowmo.training.loop.samples import grid
from flowmo.training.perceptual.losses import perceptual_network
from flowmo.training.tasks.flow import GENERATORS, Draws
from flowmo.training.tasks.mup import initialize, parameter_groups
from flowmo.training.tasks.task import (
    ParameterGroup,
    Report,
    Samples,
    ShardedPart,
    Task,
    TrainingData,
)
from flowmo.training.tasks.validation import DISTANCES, METRICS, Validator


def tokenizer_run(config: AnyTrainConfig) -> TrainConfig:
    """A run as one of a tokenizer, which the registry has made sure of."""
    assert isinstance(config.model, FlowMoConfig), config.model
    return cast("TrainConfig", config)


def quantizer_weights(config: TrainConfig) -> frozenset[str]:
    """The weights of the losses that the model's quantizer has."""
    if config.model.quantizer == "gaussian":
        return frozenset({"losses.kl"})
    return frozenset({"losses.entropy", "losses.commitment"})


def perceptual_options(config: TrainConfig, *weights: str) -> frozenset[str]:
    """The options that a perceptual network and its terms read.

    Args:
        config: The run.
        weights: The task's weights of perceptual terms, by dotted name.

    Returns:
        All of them where there is a network and a term that is not 0; where there is no network,
        what would choose one.
    """
    used = any(getattr(config.losses, name.removeprefix("losses.")) > 0 for name in weights)
    if config.perceptual.network == "none":
        return frozenset({"perceptual.network"})
    return frozenset({*weights, "perceptual"} if used else weights)


def require_init(config: AnyTrainConfig) -> None:
    """Check that a run begins with a checkpoint.

    Raises:
        ConfigError: It does not.
    """
    require(
        config.init is not None,
        f"the task {config.task!r} trains on from a checkpoint: set init (--init FOLDER)",
    )


class TokenizerTask(Task[FlowMo, Batch, Tensor, Draws]):
    """A task whose model is a FlowMo and whose samples are images.

    Inputs are images [B, 3, S, S] in [-1, 1], draws are :class:`flowmo.training.tasks.flow.Draws`.

    Attributes:
        images: The training data, once it is open.
        perceptual: The frozen network of the perceptual terms, once the run starts; None for none.
    """

    model_config = FlowMoConfig
    model_type = MODEL_TYPE
    generators = GENERATORS
    validation_metrics = METRICS
    unweighted = ("model.name", "model.sampler.")

    config: TrainConfig
    images: TrainingImages
    perceptual: nn.Module | None = None

    _shown: Tensor
    _validator: Validator | None = None

    @classmethod
    def reads(cls, config: AnyTrainConfig) -> frozenset[str]:
        """What every stage reads: data, muP, the flow loss and its times."""
        options = {
            "condition_dropout",
            "data",
            "encoder_freeze_step",
            "init",
            "losses.flow",
            "losses.flow_full_from",
            "optimizer.base_width",
            "optimizer.head_rate",
            "optimizer.init",
            "optimizer.initial_gate",
            "optimizer.parametrization",
            "time_shift",
            "uniform_share",
        }
        if config.validation.interval and config.validation.metric == "lpips":
            options.add("validation.lpips_weights")
        return frozenset(options)

    @classmethod
    def start_from(cls, config: AnyTrainConfig, checkpoint: str) -> AnyTrainConfig:
        """Take over the checkpoint's sizes and its default sampler."""
        model = inspect_checkpoint(resolve_checkpoint(checkpoint)).config
        return replace(tokenizer_run(config), init=checkpoint, model=model)

    # The model

    def build_model(self) -> FlowMo:
        """A FlowMo with muP's initial weights, or those of ``config.init``."""
        config = self.config
        model = FlowMo(config.model).to(torch.float32)
        if config.init is None:
            initialize(model, config.model, config.optimizer, seed=config.seed)
        else:
            load_initial(model, config.init)
        return model

    def parameter_groups(self, model: FlowMo) -> list[ParameterGroup]:
        """Groups by muP's learning rates (:mod:`flowmo.training.tasks.mup`)."""
        return parameter_groups(model, self.config.model, self.config.optimizer)

    def held_matrices(self, model: FlowMo) -> Mapping[str, nn.Parameter]:
        """The weights of all Linears inside the blocks."""
        return {
            f"{name}.weight": module.get_parameter("weight")
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and ".double_blocks." in f".{name}"
        }

    def sharded_parts(self, model: FlowMo) -> Sequence[ShardedPart]:
        """Encoder and decoder: both run in one step, the decoder several times perhaps.

        Weights that they shared a unit with would be reduced when the first is done.
        """
        halves = (model.encoder, model.decoder)
        return [ShardedPart(half, list(half.double_blocks)) for half in halves]

    def freeze(self, model: FlowMo, step: int) -> None:
        """Hold the encoder from ``encoder_freeze_step`` on."""
        limit = self.config.encoder_freeze_step
        if limit is not None and step >= limit:
            model.encoder.requires_grad_(False)
            for parameter in model.encoder.parameters():
                parameter.grad = None

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """A checkpoint folder as :meth:`flowmo.FlowMo.from_pretrained` reads it."""
        with torch.device("meta"):
            model = FlowMo(self.config.model)
        model.load_state_dict(dict(weights), assign=True)
        model.save_pretrained(folder, dtype=next(model.parameters()).dtype)

    # Data

    def open_data(self, report: Report) -> TrainingData:
        """Crops of the images of ``data.paths``."""
        self.images = TrainingImages(self.config, size=self.config.model.image_size, report=report)
        self._report = report
        return self.images

    def inputs(self, batch: Batch) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1]."""
        return to_model_range(batch.images.to(self.device, non_blocking=True))

    def start(self, model: FlowMo, data: TrainingData) -> None:
        """Load the images to show, the perceptual network and the held-out images."""
        del model, data
        config, size = self.config, self.config.model.image_size
        index = self.images.index
        if config.data.sample_paths:
            index = ImageIndex(
                config.data.sample_paths, cache=config.data.index_cache, report=self._report
            )
        self._shown = fixed_images(index, size=size, count=config.sample_count)
        self.perceptual = perceptual_network(config.perceptual, self.device)
        if config.validation.interval:
            self._validator = Validator(
                config.validation, size=size, device=self.device, mesh=self.mesh
            )

    # What people look at

    def sample(self, model: FlowMo) -> Samples:
        """Originals above, reconstructions by the model's own sampler below."""
        images = to_model_range(self._shown.to(self.device))
        own = self.mesh.share(len(images))
        came = model.reconstruct(images[own], seeds=own).cpu()
        found = self.mesh.join(dict(zip(own, came, strict=True)))
        reconstructions = torch.stack(found).to(images.device)
        mean = fmean(psnr_of_images(images, reconstructions))
        return Samples(
            pixels=grid(images, reconstructions),
            name="reconstructions",
            values={"sample_psnr": mean},
            status=f"reconstructions of the averaged weights: {mean:.2f} dB PSNR",
        )

    def validate(self, model: FlowMo) -> dict[str, float]:
        """Reconstruct the held-out images (:class:`flowmo.training.tasks.validation.Validator`)."""
        assert self._validator is not None, "validation.interval is 0"
        return self._validator.measure(model)

    def score(self, values: Mapping[str, float]) -> float:
        """Of distances less is better, of PSNR and SSIM more."""
        score = super().score(values)
        return -score if self.config.validation.metric in DISTANCES else score
