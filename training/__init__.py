"""Training: ``flowmo train``, or :func:`train` with a recipe's config (docs/training.md)."""

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
from flowmo.training.tasks.registry import find_task, register_task, start_from
from flowmo.training.tasks.task import Task

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
    "Task",
    "TrainConfig",
    "TrainResult",
    "ValidationConfig",
    "find_task",
    "override",
    "parse_assignments",
    "recipe",
    "register_task",
    "start_from",
    "train",
]
