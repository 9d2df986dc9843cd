"""Training of FlowMo tokenizers: ``flowmo train``, or :func:`train` with a recipe's config."""

from flowmo.training.checkpointing.initial import start_from
from flowmo.training.config import (
    DataConfig,
    DistillConfig,
    LossWeights,
    OptimizerConfig,
    PerceptualConfig,
    PostTrainConfig,
    TrainConfig,
    ValidationConfig,
)
from flowmo.training.errors import DataError, DivergedError
from flowmo.training.loop.trainer import TrainResult, train
from flowmo.training.overrides import override, parse_assignments
from flowmo.training.recipes import RECIPES, recipe

__all__ = [
    "RECIPES",
    "DataConfig",
    "DataError",
    "DistillConfig",
    "DivergedError",
    "LossWeights",
    "OptimizerConfig",
    "PerceptualConfig",
    "PostTrainConfig",
    "TrainConfig",
    "TrainResult",
    "ValidationConfig",
    "override",
    "parse_assignments",
    "recipe",
    "start_from",
    "train",
]
