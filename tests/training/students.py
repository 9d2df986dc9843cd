"""A model small enough to learn ten pictures in seconds, for tests of the later stages."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.training.config import (
    AnyTrainConfig,
    DataConfig,
    LossWeights,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)
from flowmo.training.loop.trainer import TrainResult, train
from flowmo.training.tasks.registry import start_from

MODEL = FlowMoConfig(
    name="pupil",
    image_size=32,
    patch_size=4,
    encoder=TransformerConfig(width=64, depth=1, heads=2),
    decoder=TransformerConfig(width=96, depth=2, heads=2),
    code_length=16,
    token_bits=18,
    group_bits=3,
    token_positions="grid",
    sampler=SamplerConfig(steps=8, guidance=1.0),
)


def pupil_config(pictures: Path, output: Path) -> TrainConfig:
    """Stage 1A on centre crops, all pictures a step."""
    return TrainConfig(
        model=MODEL,
        data=DataConfig(paths=(str(pictures),), crop="centre", cache="memory", workers=0),
        optimizer=OptimizerConfig(
            learning_rate=3e-3, parametrization="standard", fix_weight_norm=False
        ),
        losses=LossWeights(commitment=0.01),
        output=str(output),
        steps=400,
        batch_size=10,
        precision="float32",
        device="cpu",
        log_interval=100,
        sample_interval=0,
        checkpoint_interval=0,
        tensorboard=False,
        ema_decay=0.98,
        ema_ramp=True,
        uniform_share=1.0,
        time_shift=2.5,
        encoder_freeze_step=None,
        validation=ValidationConfig(interval=200, paths=(str(pictures),)),
    )


def later_stage(config: TrainConfig, checkpoint: Path, **changes: object) -> TrainConfig:
    """A config of stage 1B or distillation that begins with ``checkpoint``."""
    values: dict[str, object] = {
        "init": str(checkpoint),
        "encoder_freeze_step": 0,
        "optimizer": replace(config.optimizer, learning_rate=5e-4),
        "losses": LossWeights(),
        **changes,
    }
    return start_from(replace(config, **values), str(checkpoint))  # type: ignore[arg-type]


def quiet(config: AnyTrainConfig, *, resume: bool = False) -> TrainResult:
    """Train without a word."""
    return train(config, resume=resume, console=Console(file=io.StringIO()))
