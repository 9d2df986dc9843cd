"""Everything that defines a training run, as frozen values that validate themselves."""

from flowmo.training.config.data import DEFAULT_INDEX_CACHE, Cache, Crop, DataConfig
from flowmo.training.config.objectives import (
    DistillConfig,
    LossWeights,
    PerceptualConfig,
    PerceptualNetwork,
    PostTrainConfig,
)
from flowmo.training.config.optimizer import (
    DEFAULT_BASE_WIDTH,
    Init,
    OptimizerConfig,
    Parametrization,
    Schedule,
)
from flowmo.training.config.prior import PriorTrainConfig
from flowmo.training.config.run import (
    TASK_OPTIONS,
    AnyTrainConfig,
    ModelConfig,
    Parallel,
    Precision,
    TrainConfig,
)
from flowmo.training.config.validation import ValidationConfig

__all__ = [
    "DEFAULT_BASE_WIDTH",
    "DEFAULT_INDEX_CACHE",
    "TASK_OPTIONS",
    "AnyTrainConfig",
    "Cache",
    "Crop",
    "DataConfig",
    "DistillConfig",
    "Init",
    "LossWeights",
    "ModelConfig",
    "OptimizerConfig",
    "Parallel",
    "Parametrization",
    "PerceptualConfig",
    "PerceptualNetwork",
    "PostTrainConfig",
    "Precision",
    "PriorTrainConfig",
    "Schedule",
    "TrainConfig",
    "ValidationConfig",
]
