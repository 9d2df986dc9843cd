"""Training of FlowMo tokenizers: ``flowmo train``, or :func:`train` with a recipe's config."""

from training.config import (
    DataConfig,
    DistillConfig,
    LossWeights,
    OptimizerConfig,
    PerceptualConfig,
    PostTrainConfig,
    TrainConfig,
    ValidationConfig,
)
from training.errors import DataError, DivergedError
from training.initial import start_from
from training.overrides import override, parse_assignments
from training.recipes import RECIPES, recipe
from training.trainer import TrainResult, train

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
