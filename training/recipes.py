"""Named runs: each recipe is a function that returns a complete config.

The published ones are Table 1 of the supplement. Their ``steps`` are its epochs over the
1,281,167 images of ImageNet-1K. Those of later stages begin with a checkpoint and take over its
sizes (:func:`flowmo.training.tasks.registry.start_from`, ``--init``).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flowmo.model.config import SamplerConfig, preset
from flowmo.model.errors import ConfigError
from flowmo.model.prior.config import PriorConfig, prior_preset
from flowmo.training.config import (
    DEFAULT_BASE_WIDTH,
    DataConfig,
    DistillConfig,
    LossWeights,
    OptimizerConfig,
    PerceptualConfig,
    PostTrainConfig,
    PriorTrainConfig,
    TrainConfig,
    ValidationConfig,
)
from flowmo.training.tasks.registry import start_from

SHIPPED_CHECKPOINT = "tiny"
IMAGENET_IMAGES = 1_281_167
PUBLISHED_BATCH_SIZE = 128
POST_TRAIN_BATCH_SIZE = 64
PUBLISHED_OPTIMIZER = OptimizerConfig(init="published", base_width=None, grad_clip=None)
"""What the published runs trained with: no rate is scaled by the width, no gradient clipped."""


def _imagenet_steps(epochs: int) -> int:
    return math.ceil(epochs * IMAGENET_IMAGES / PUBLISHED_BATCH_SIZE)


def _published(preset_name: str, *, epochs: int) -> TrainConfig:
    """Table 1 and the published configuration; docs/training.md lists what differs from them.

    ``accumulation`` is for eight GPUs: two micro-batches of 8 on each.
    """
    return TrainConfig(
        model=preset(preset_name),
        data=DataConfig(horizontal_flip=False),
        optimizer=PUBLISHED_OPTIMIZER,
        output=f"runs/{preset_name}",
        steps=_imagenet_steps(epochs),
        batch_size=PUBLISHED_BATCH_SIZE,
        accumulation=2,
        compile=True,
        perceptual=PerceptualConfig(network="lpips-vgg"),
        export_precision="float32",
        checkpoint_minutes=30.0,
    )


def fewer_params() -> TrainConfig:
    """FlowMo (fewer params), the preset ``small``: 517 M parameters, 40 epochs."""
    config = _published("small", epochs=40)
    # Its own width, spelt out: what is made wider or narrower of it stays in muP.
    return replace(config, optimizer=replace(config.optimizer, base_width=DEFAULT_BASE_WIDTH))


def lo() -> TrainConfig:
    """FlowMo-Lo, 945 M parameters, 0.07 bit a pixel, 130 epochs."""
    return _published("lo", epochs=130)


def hi() -> TrainConfig:
    """FlowMo-Hi, 945 M parameters, 0.22 bit a pixel, 80 epochs."""
    return _published("hi", epochs=80)


def continuous() -> TrainConfig:
    """FlowMo-Lo with a Gaussian posterior instead of signs, 130 epochs."""
    config = _published("continuous-lo", epochs=130)
    return replace(config, losses=LossWeights(kl=1.0))


def tiny_pretrain() -> TrainConfig:
    """The demo checkpoint's first stage: minutes on a GPU, five hours on two CPU cores.

    The budget is time: the learning rate falls over ``max_minutes``, however many steps fit. It
    departs from Table 1 in what so short a run needs (docs/decisions/0020).
    """
    return TrainConfig(
        # The velocity is learned best near t = 1; more steps lean on the rest and add up its error.
        model=replace(preset("tiny"), sampler=SamplerConfig(steps=4, guidance=1.0)),
        data=DataConfig(
            min_crop_scale=0.25,
            colour_jitter=0.2,
            repeat_by_area=True,
            cache="memory",
            workers=0,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1.5e-3,
            parametrization="standard",
            fix_weight_norm=False,
            schedule="linear",
            warmup_steps=100,
            decay_from=0.7,
            final_fraction=0.02,
            anneal_over_budget=True,
        ),
        losses=LossWeights(commitment=0.01),
        uniform_share=1.0,
        time_shift=2.5,
        output="runs/tiny-pretrain",
        steps=40_000,
        max_minutes=315.0,
        batch_size=8,
        ema_decay=0.999,
        ema_ramp=True,
        encoder_freeze_step=None,
        sample_interval=500,
        checkpoint_interval=500,
        checkpoint_minutes=15.0,
        log_interval=50,
    )


def post_train() -> TrainConfig:
    """Stage 1B: about one epoch through chains of 8 steps, stopped when held-out LPIPS stalls.

    ``validation.paths`` is to be named: early stopping needs images that are not trained on.
    """
    return TrainConfig(
        task="post-train",
        init="runs/lo/export",
        model=preset("lo"),
        data=DataConfig(horizontal_flip=False),
        optimizer=replace(PUBLISHED_OPTIMIZER, learning_rate=5e-5),
        perceptual=PerceptualConfig(network="resnet50-logits"),
        validation=ValidationConfig(interval=1_000, count=1_024, metric="lpips", patience=5),
        output="runs/post-train",
        steps=math.ceil(IMAGENET_IMAGES / POST_TRAIN_BATCH_SIZE),
        batch_size=POST_TRAIN_BATCH_SIZE,
        accumulation=2,
        encoder_freeze_step=0,
        export_precision="float32",
        checkpoint_minutes=30.0,
    )


def distill() -> TrainConfig:
    """A student of 4 steps; for 2 and 1 begin with that student and name the same teacher."""
    return TrainConfig(
        task="distill",
        init="runs/post-train/best",
        model=replace(preset("lo"), sampler=SamplerConfig(steps=4, guidance=1.0)),
        optimizer=OptimizerConfig(learning_rate=2e-5, schedule="linear", decay_from=0.5),
        losses=LossWeights(flow=0.5, teacher_perceptual=0.1, sample_perceptual=0.1, sample_mse=0.1),
        perceptual=PerceptualConfig(network="lpips-vgg"),
        validation=ValidationConfig(interval=500, count=256, patience=10),
        output="runs/distill",
        steps=20_000,
        batch_size=POST_TRAIN_BATCH_SIZE,
        accumulation=2,
        encoder_freeze_step=0,
        checkpoint_minutes=30.0,
    )


def tiny_sharp() -> TrainConfig:
    """The demo checkpoint with a head, as images, and with a perceptual loss (decision 0023).

    It begins with what ``python -m flowmo.training.checkpointing.grow`` made of a checkpoint of
    ``tiny-pretrain``, and needs a file of ``python -m flowmo.training.perceptual.fetch``. Most of
    the times are near 1, and one step is what the model decodes with.
    """
    config = tiny_pretrain()
    return replace(
        config,
        init="runs/grown",
        model=replace(
            config.model,
            prediction="image",
            head=(64, 32, 16),
            sampler=SamplerConfig(steps=1, guidance=1.0),
        ),
        optimizer=replace(
            config.optimizer, learning_rate=5e-4, head_rate=4.0, warmup_steps=50, decay_from=0.4
        ),
        losses=replace(config.losses, perceptual=0.05, flow_full_from=0.5),
        perceptual=PerceptualConfig(
            network="vgg-edge", weights="networks/vgg-edge.safetensors", blocks=3, window=64
        ),
        time_shift=10.0,
        condition_dropout=0.05,
        ema_decay=0.998,
        output="runs/tiny-sharp",
        steps=1_000_000,
        max_minutes=300.0,
    )


def tiny_post_train() -> TrainConfig:
    """The demo checkpoint after stage 1A: chains of 4 steps, squared error instead of ResNet-50."""
    return replace(
        tiny_pretrain(),
        task="post-train",
        init="runs/tiny-pretrain/export",
        optimizer=replace(tiny_pretrain().optimizer, learning_rate=2e-4, decay_from=0.3),
        # For models that predict images; of others it only weighs small times less.
        losses=LossWeights(flow_full_from=0.5, sample_mse=1.0),
        post_train=PostTrainConfig(steps=4, recompute=False),
        validation=ValidationConfig(interval=250),
        output="runs/tiny-post-train",
        max_minutes=60.0,
        encoder_freeze_step=0,
    )


def tiny_distill() -> TrainConfig:
    """The demo checkpoint's student of 4 steps, without a perceptual network."""
    config = tiny_post_train()
    return replace(
        config,
        task="distill",
        init="runs/tiny-post-train/export",
        model=replace(config.model, sampler=SamplerConfig(steps=4, guidance=1.0)),
        losses=LossWeights(flow=0.5, flow_full_from=0.5, teacher_l1=0.5, sample_mse=0.5),
        post_train=PostTrainConfig(recompute=False),
        distill=DistillConfig(teacher_steps=25),
        output="runs/tiny-distill",
    )


def finetune() -> TrainConfig:
    """The shipped checkpoint on one's own pictures: half an hour on two CPU cores.

    It trains on as the shipped weights were trained last, at a quarter of their learning rate.
    There is no validation: the held-out photographs are not what it is tuned to.
    """
    last = tiny_sharp()
    config = replace(
        last,
        data=DataConfig(min_crop_scale=0.8, cache="memory", workers=0),
        optimizer=replace(last.optimizer, learning_rate=1.25e-4, decay_from=0.3),
        # A perceptual network is fetched, and not everybody has one.
        losses=replace(last.losses, perceptual=0.0),
        perceptual=PerceptualConfig(),
        output="runs/finetune",
        max_minutes=30.0,
        checkpoint_interval=0,
        checkpoint_minutes=5.0,
        log_interval=10,
        sample_interval=100,
    )
    return start_from(config, SHIPPED_CHECKPOINT)


def prior() -> TrainConfig[PriorConfig]:
    """The second stage of paper A.3: 397 M parameters, 300 epochs of ImageNet-1K's tokens.

    Rates, batch and epochs are the paper's; decay, Adam's rates and warm-up are MaskGIT's, of which
    the paper says nothing (docs/decisions/0028).
    """
    return TrainConfig(
        task="prior",
        model=prior_preset("prior"),
        optimizer=OptimizerConfig(
            learning_rate=1e-4,
            betas=(0.9, 0.96),
            weight_decay=0.045,
            fix_weight_norm=False,
            warmup_steps=5_000,
        ),
        validation=ValidationConfig(interval=5_000, count=1_024, metric="cross_entropy"),
        output="runs/prior",
        steps=_imagenet_steps(300),
        batch_size=PUBLISHED_BATCH_SIZE,
        compile=True,
        checkpoint_minutes=30.0,
    )


def prior_tiny() -> TrainConfig[PriorConfig]:
    """A prior of 2.9 M parameters over the demo tokenizer's ids: an hour on a CPU core or two.

    Labels are not smoothed, so that the loss is the cross-entropy that validation gives.
    """
    config = prior()
    return replace(
        config,
        model=prior_preset("prior-tiny"),
        optimizer=replace(
            config.optimizer,
            learning_rate=1.5e-3,
            warmup_steps=100,
            schedule="linear",
            decay_from=0.5,
            final_fraction=0.02,
            anneal_over_budget=True,
        ),
        prior=PriorTrainConfig(label_smoothing=0.0),
        validation=ValidationConfig(interval=250, count=48, metric="cross_entropy"),
        output="runs/prior-tiny",
        steps=40_000,
        max_minutes=60.0,
        batch_size=8,
        ema_decay=0.995,
        ema_ramp=True,
        compile=False,
        sample_interval=1_000,
        checkpoint_interval=500,
        checkpoint_minutes=5.0,
        keep_best=True,
    )


RECIPES: dict[str, Callable[[], TrainConfig[Any]]] = {
    "tiny-pretrain": tiny_pretrain,
    "tiny-sharp": tiny_sharp,
    "tiny-post-train": tiny_post_train,
    "tiny-distill": tiny_distill,
    "finetune": finetune,
    "fewer-params": fewer_params,
    "lo": lo,
    "hi": hi,
    "continuous": continuous,
    "post-train": post_train,
    "distill": distill,
    "prior": prior,
    "prior-tiny": prior_tiny,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One of the recipes that are run in order.

    Attributes:
        recipe: Its name.
        grow: Whether the model of the stage before is given this recipe's head and a readout of
            images first (:mod:`flowmo.training.checkpointing.grow`).
        crops: The number of crops that this readout is fitted to.
    """

    recipe: str
    grow: bool = False
    crops: int = 1_024


STAGED_RECIPES: dict[str, tuple[Stage, ...]] = {
    "tiny-demo": (Stage(recipe="tiny-pretrain"), Stage(recipe="tiny-sharp", grow=True)),
}
"""What :mod:`flowmo.training.stages` runs by one command."""


def recipe(name: str) -> TrainConfig[Any]:
    """The config of a recipe.

    Raises:
        ConfigError: no such recipe, or several stages of them; the message lists those there are.
    """
    if name in STAGED_RECIPES:
        stages = ", ".join(stage.recipe for stage in STAGED_RECIPES[name])
        raise ConfigError(f"{name} is several recipes, one after the other: name one of {stages}")
    if name not in RECIPES:
        known = ", ".join(sorted(RECIPES.keys() | STAGED_RECIPES))
        raise ConfigError(f"no recipe {name!r}; there are {known}")
    return RECIPES[name]()
