"""Training of FlowMo tokenizers: ``flowmo train``, or :func:`train` with a recipe's config."""

from training.config import DataConfig, LossWeights, OptimizerConfig, TrainConfig
from training.errors import DataError, DivergedError
from training.overrides import override, parse_assignments
from training.recipes import RECIPES, recipe
from training.trainer import TrainResult, train

__all__ = [
    "RECIPES",
    "DataConfig",
    "DataError",
    "DivergedError",
    "LossWeights",
    "OptimizerConfig",
    "TrainConfig",
    "TrainResult",
    "override",
    "parse_assignments",
    "recipe",
    "train",
]
