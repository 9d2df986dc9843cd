"""A whole run as one frozen value that validates itself.

A run is one :class:`TrainConfig`. Recipes (:mod:`flowmo.training.recipes`) return complete ones,
:mod:`flowmo.training.overrides` changes single fields from the command line, and the checkpoint
stores the JSON form of :meth:`TrainConfig.to_dict`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Generic, Literal, Protocol, Self

from typing_extensions import TypeVar

from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import ConfigError
from flowmo.model.strict import from_dict, to_dict
from flowmo.training.config.checks import at_least, one_of, require, share
from flowmo.training.config.data import DataConfig
from flowmo.training.config.objectives import (
    DistillConfig,
    LossWeights,
    PerceptualConfig,
    PostTrainConfig,
)
from flowmo.training.config.optimizer import OptimizerConfig
from flowmo.training.config.prior import PriorTrainConfig
from flowmo.training.config.validation import ValidationConfig

Precision = Literal["float32", "tf32", "bf16"]
Parallel = Literal["auto", "none", "ddp", "fsdp"]
Recompute = Literal["none", "blocks"]

ExportPrecision = Literal["bf16", "float32"]

TASK_OPTIONS = (
    "condition_dropout",
    "data",
    "distill",
    "encoder_freeze_step",
    "init",
    "losses",
    "optimizer.base_width",
    "optimizer.head_rate",
    "optimizer.init",
    "optimizer.initial_gate",
    "optimizer.parametrization",
    "perceptual",
    "post_train",
    "prior",
    "recompute",
    "time_shift",
    "uniform_share",
    "validation.lpips_weights",
)
"""Fields, and sections of them, that only some tasks read. The loop reads all others."""


class ModelConfig(Protocol):
    """What a run needs of the config of a model, whatever its class."""

    @property
    def name(self) -> str:
        """A label for people."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-safe values."""
        ...


# A run of which nothing is said trains a tokenizer. Covariant: what takes a run of any model takes
# that of a tokenizer.
C_co = TypeVar("C_co", bound=ModelConfig, covariant=True, default=FlowMoConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Generic[C_co]):
    """A whole run of one task.

    Args:
        task: What is trained, and how (:mod:`flowmo.training.tasks.registry`): ``pretrain`` is
            stage 1A (SPEC "Training objective"), ``post-train`` stage 1B, through the sampling
            chain, ``distill`` teaches a student of few steps; ``prior`` is the second stage, over
            the ids of a tokenizer.
        init: The checkpoint whose weights the run begins with: a shipped one's name, a folder or a
            hub repository; None begins with random ones. ``post-train`` and ``distill`` need it.
        model: The config of the task's model. A tokenizer's has the sizes of the network and its
            default sampler, which sample grids, validation and the exported checkpoint use, and
            which in distillation is the grid that the student learns.
        data: The images.
        optimizer: Adam and its schedule.
        losses: The weights of the loss terms.
        perceptual: The network of the perceptual terms.
        post_train: The chain of ``post-train``.
        distill: The teacher of ``distill``.
        prior: Masks and samples of ``prior``.
        validation: Held-out samples, the best weights, early stopping.
        output: The run's folder, for logs, samples, checkpoints and the exported model.
        steps: The number of optimizer steps of the whole run.
        max_minutes: The run stops after so many minutes of training, over all resumed parts; None
            never does.
        batch_size: The number of samples an optimizer step, over all processes.
        accumulation: The number of micro-batches a step and process; processes x accumulation
            divides ``batch_size``.
        ema_decay: The decay of the weights' exponential moving average.
        ema_ramp: Whether to use min(decay, (1 + step) / (10 + step)), for runs of few steps.
        ema_half_life: The half-life of the average as a share of the steps done so far, in (0, 1):
            it grows with the run, and nothing is left of the weights that the run began with. It
            takes the place of ``ema_decay`` and ``ema_ramp``; None leaves it to them.
        condition_dropout: The share of samples that see the null condition.
        uniform_share: The share of uniform times in the "fat" logit-normal.
        time_shift: s of t -> s t / (1 + (s - 1) t). 1 is the published distribution; above it,
            more of the training is near t = 1, where only the tokens can say what the picture is.
            Small pictures want it: at the same t, noise hides less of a large one.
        encoder_freeze_step: The number of steps that the encoder trains for; None for all.
        recompute: ``blocks`` has stage 1A keep only the inputs of the transformers' blocks and what
            attention gave, and compute the rest of a block again in the backward pass: for
            FlowMo-Lo a twelfth of what is kept, for a third more operations. ``none`` keeps all.
        precision: ``bf16`` autocast (weights stay float32), ``float32``, or ``tf32``: float32 whose
            matrix products a GPU may round to 10 bits.
        export_precision: The dtype of the weights in ``export/`` and ``best/``. A later stage that
            begins with them begins with the average itself where it is ``float32``; a release is
            written in bf16 all the same.
        compile: Whether to ``torch.compile`` the forward and backward pass.
        device: ``auto`` (a GPU if there is one), or a torch device such as ``cpu``, ``cuda:0``.
        parallel: What several processes (torchrun, Ray Train) share: with ``ddp`` each keeps a
            whole copy of the weights, with ``fsdp`` they shard them; ``auto`` is ``ddp`` if there
            are several.
        shard_size: The number of processes that share one copy of the weights with ``fsdp``, such
            as those of one machine; None for all of them.
        seed: The seed of the initial weights, the data order, times, noise and dropout.
        log_interval: The number of steps between log lines.
        sample_interval: The number of steps between sample grids; 0 for none.
        sample_count: The number of images of a grid.
        checkpoint_interval: The number of steps between checkpoints; 0 for only the last.
        checkpoint_minutes: A checkpoint is due after so many minutes, too; None for none.
        keep_checkpoints: The number of latest checkpoints that stay on disk.
        keep_every: Checkpoints whose step is a multiple of this stay, too; 0 for none.
        keep_best: Whether each best validation writes a checkpoint, of which the latest stays.
        checkpoint_mirror: A URL (``s3://``, ``gs://``, or another of fsspec's) that gets a copy of
            every checkpoint and of the exported models; a run that finds no checkpoint in its
            folder resumes from there.
        tensorboard: Whether to write TensorBoard event files.

    Raises:
        ConfigError: A value is out of its range, or values do not fit together.
    """

    task: str = "pretrain"
    init: str | None = None
    model: C_co
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    post_train: PostTrainConfig = field(default_factory=PostTrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    prior: PriorTrainConfig = field(default_factory=PriorTrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    output: str = "runs/flowmo"
    steps: int
    max_minutes: float | None = None
    batch_size: int = 128
    accumulation: int = 1
    ema_decay: float = 0.9999
    ema_ramp: bool = False
    ema_half_life: float | None = None
    condition_dropout: float = 0.1
    uniform_share: float = 0.1
    time_shift: float = 1.0
    encoder_freeze_step: int | None = 200_000
    recompute: Recompute = "none"
    precision: Precision = "bf16"
    export_precision: ExportPrecision = "bf16"
    compile: bool = False
    device: str = "auto"
    parallel: Parallel = "auto"
    shard_size: int | None = None
    seed: int = 0
    log_interval: int = 50
    sample_interval: int = 5_000
    sample_count: int = 8
    checkpoint_interval: int = 5_000
    checkpoint_minutes: float | None = None
    keep_checkpoints: int = 2
    keep_every: int = 0
    keep_best: bool = False
    checkpoint_mirror: str | None = None
    tensorboard: bool = True

    def __post_init__(self) -> None:
        at_least(
            1,
            steps=self.steps,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            log_interval=self.log_interval,
            sample_count=self.sample_count,
            keep_checkpoints=self.keep_checkpoints,
        )
        at_least(
            0,
            sample_interval=self.sample_interval,
            checkpoint_interval=self.checkpoint_interval,
            keep_every=self.keep_every,
            encoder_freeze_step=self.encoder_freeze_step or 0,
        )
        for name in ("max_minutes", "checkpoint_minutes"):
            minutes = getattr(self, name)
            require(
                minutes is None or minutes > 0, f"{name} must be positive or none, got {minutes!r}"
            )
        require(
            self.batch_size % self.accumulation == 0,
            f"accumulation {self.accumulation} must divide batch_size {self.batch_size}",
        )
        require(
            not self.optimizer.anneal_over_budget or self.max_minutes is not None,
            "optimizer.anneal_over_budget needs max_minutes",
        )
        share(
            condition_dropout=self.condition_dropout,
            uniform_share=self.uniform_share,
            ema_decay=self.ema_decay,
        )
        half_life = self.ema_half_life
        require(
            half_life is None or 0 < half_life < 1,
            f"ema_half_life must lie between 0 and 1, or be none, got {half_life!r}",
        )
        one_of("precision", self.precision, Precision)
        one_of("recompute", self.recompute, Recompute)
        one_of("export_precision", self.export_precision, ExportPrecision)
        one_of("parallel", self.parallel, Parallel)
        require(
            self.shard_size is None or (self.shard_size >= 1 and self.parallel == "fsdp"),
            f"shard_size must be at least 1 and belongs to parallel=fsdp, got {self.shard_size!r}",
        )
        require(
            not self.keep_best or self.validation.interval > 0,
            "keep_best needs a validation.interval",
        )
        require(
            math.isfinite(self.time_shift) and self.time_shift > 0,
            f"time_shift must be positive, got {self.time_shift!r}",
        )
        require(0 <= self.seed < 2**63, f"seed must lie in 0 ... 2^63 - 1, got {self.seed!r}")
        self._check_task()

    def _check_task(self) -> None:
        # Tasks import configs; the registry is asked when there is a config to check.
        from flowmo.training.tasks.registry import find_task

        task = find_task(self.task)
        require(
            isinstance(self.model, task.model_config),
            f"the task {self.task!r} trains a model of {task.model_config.__name__}, got one of "
            f"{type(self.model).__name__}",
        )
        if self.validation.interval:
            require(
                self.validation.metric in task.validation_metrics,
                f"validation.metric must be one of {list(task.validation_metrics)} for the task "
                f"{self.task!r}, got {self.validation.metric!r}",
            )
        task.check(self)
        read = task.reads(self)
        for name, (value, default) in changed_options(self).items():
            # A weight of 0 asks for nothing that could be missed.
            is_off = name.startswith("losses.") and value == 0
            if not _covers(read, name) and not is_off:
                alike = sorted(one for one in read if one.split(".")[0] == name.split(".")[0])
                others = f"; of {name.split('.')[0]} it reads {', '.join(alike)}" if alike else ""
                raise ConfigError(
                    f"the task {self.task!r}, set up like this, ignores {name} = {value!r}{others}."
                    f" Leave {name} at its default, {default!r}"
                    f"{', set it to 0' if name.startswith('losses.') else ''}, or choose what "
                    f"makes use of it"
                )

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON-safe values."""
        data: dict[str, Any] = to_dict(self)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form; the task decides what ``model`` is.

        Raises:
            ConfigError: An unknown task, an unknown or missing field, or a value of a wrong type
                or range.
        """
        from flowmo.training.tasks.registry import find_task

        require(isinstance(data, Mapping), f"a run must be a mapping of fields, got {data!r}")
        task = find_task(data.get("task", "pretrain"))
        return from_dict(cls, data, types={"model": task.model_config})


AnyTrainConfig = TrainConfig[ModelConfig]
"""A run of any model: what the loop knows."""


def changed_options(config: AnyTrainConfig) -> dict[str, tuple[Any, Any]]:
    """The fields of :data:`TASK_OPTIONS` that are not at their defaults.

    Returns:
        Value and default, by dotted name.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for one in fields(config):
        if one.default_factory is not MISSING:
            default = one.default_factory()
        elif one.default is not MISSING:
            default = one.default
        else:
            continue
        defaults = _leaves(one.name, default)
        for name, value in _leaves(one.name, getattr(config, one.name)).items():
            if _covers(TASK_OPTIONS, name) and value != defaults[name]:
                changed[name] = value, defaults[name]
    return changed


def _leaves(name: str, value: Any) -> dict[str, Any]:
    plain = to_dict(value)
    return (
        {f"{name}.{k}": v for k, v in plain.items()} if isinstance(plain, dict) else {name: plain}
    )


def _covers(names: Collection[str], name: str) -> bool:
    """Whether a dotted name, or the section that holds it, is among ``names``."""
    return name in names or name.split(".", maxsplit=1)[0] in names
