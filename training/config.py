"""Everything that defines a training run, as frozen values that validate themselves.

A run is one :class:`TrainConfig`. Recipes (:mod:`flowmo.training.recipes`) return complete ones,
:mod:`flowmo.training.overrides` changes single fields from the command line, and the checkpoint
stores the JSON form of :meth:`TrainConfig.to_dict`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import ConfigError
from flowmo.training.strict import from_dict, to_dict

Crop = Literal["random", "centre"]
Cache = Literal["none", "memory"]
Schedule = Literal["constant", "linear", "cosine"]
Parametrization = Literal["mup", "standard"]
Precision = Literal["float32", "tf32", "bf16"]
Parallel = Literal["auto", "none", "ddp", "fsdp"]
Stage = Literal["1a", "1b", "distill"]
PerceptualNetwork = Literal[
    "none", "lpips-vgg", "resnet50-logits", "vgg-edge", "efficientnet-lite0"
]
ValidationMetric = Literal["psnr", "ssim", "lpips"]

DEFAULT_INDEX_CACHE = "~/.cache/flowmo/indexes"
DEFAULT_BASE_WIDTH = 768
"""muP width 4 x 192, where the paper tuned its hyperparameters (supplement A.1)."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _one_of(name: str, value: object, options: object) -> None:
    choices = get_args(options)
    _require(value in choices, f"{name} must be one of {list(choices)}, got {value!r}")


def _at_least(low: float, **values: float) -> None:
    for name, value in values.items():
        _require(
            math.isfinite(value) and value >= low,
            f"{name} must be a number of at least {low:g}, got {value!r}",
        )


def _share(**values: float) -> None:
    for name, value in values.items():
        _require(0.0 <= value <= 1.0, f"{name} must lie in 0 ... 1, got {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the images are and how they become training samples.

    Args:
        paths: folders (searched recursively), image files, uncompressed tar files (of images, or
            of such tars), glob patterns and ``{000..146}`` of these; each also as a URL that
            fsspec reads (``s3://``, ``gs://``, ``https://``); Hugging Face data sets as
            ``hf://owner/name?split=train`` or ``hf:/folder`` (:mod:`flowmo.training.data.sources`).
        crop: position of the square crop, ``random`` or ``centre``.
        min_crop_scale: the side of a random crop is uniform between this share of the image's
            shorter side and all of it. 1 is the plain "resize the shorter side, crop a square".
        horizontal_flip: mirror half of the samples (never with a ``centre`` crop).
        colour_jitter: largest relative change of contrast and saturation of a random crop, and,
            smaller, of brightness and colour balance; 0 changes nothing.
        repeat_by_area: a picture is in an epoch as many times as crops of the model's size cover
            it. It needs ``cache=memory``.
        cache: ``memory`` decodes every image once, at the start, and keeps it as uint8 with the
            shorter side at most ceil(image size / min_crop_scale).
        cache_limit_gib: refuse to start when the cache would need more (GiB).
        workers: decoding processes; 0 decodes in the training process. No effect on the data.
        max_corrupt: how many images may turn out unreadable before training stops.
        index_cache: folder where the indexes of tars are kept from one start to the next; empty
            keeps none.
        sample_paths: images for the sample grids, best ones that are never trained on; empty
            means the first images of ``paths``.

    Raises:
        ConfigError: a value is out of its range.
    """

    paths: tuple[str, ...] = ()
    crop: Crop = "random"
    min_crop_scale: float = 1.0
    horizontal_flip: bool = True
    colour_jitter: float = 0.0
    repeat_by_area: bool = False
    cache: Cache = "none"
    cache_limit_gib: float = 8.0
    workers: int = 4
    max_corrupt: int = 100
    index_cache: str = DEFAULT_INDEX_CACHE
    sample_paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("data.crop", self.crop, Crop)
        _one_of("data.cache", self.cache, Cache)
        _require(
            0.0 < self.min_crop_scale <= 1.0,
            f"data.min_crop_scale must lie in (0, 1], got {self.min_crop_scale!r}",
        )
        _at_least(0, workers=self.workers, max_corrupt=self.max_corrupt)
        _share(colour_jitter=self.colour_jitter)
        _require(
            not self.repeat_by_area or self.cache == "memory",
            "data.repeat_by_area needs data.cache=memory: pictures' sizes are known only then",
        )
        _require(
            self.cache_limit_gib > 0,
            f"data.cache_limit_gib must be positive, got {self.cache_limit_gib!r}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Adam, its per-tensor learning rates and its schedule (SPEC "Training objective").

    Args:
        learning_rate: rate of vectors and input matrices at every width, and of hidden matrices
            at ``base_width``.
        betas: Adam's decay rates.
        eps: Adam's denominator offset.
        weight_decay: decoupled (AdamW) decay of matrices, 0 in the published recipe.
        grad_clip: largest global gradient norm; None does not clip.
        parametrization: ``mup`` scales hidden and readout matrices with width; ``standard`` does
            not (see docs/decisions/0020).
        base_width: width at which both parametrizations agree.
        fix_weight_norm: rescale block matrices to their initial Frobenius norm after each step.
        initial_gate: value of the residual gates before the first step; 0 is adaLN-zero.
        schedule: ``constant`` (the paper), or a decay that is ``linear`` or ``cosine``.
        warmup_steps: linear rise from 0 over so many steps.
        decay_from: share of the run after which the decay starts (0 decays all the way).
        final_fraction: share of the learning rate that is left at the end of the decay.
        anneal_over_budget: progress is max(step / steps, minutes / max_minutes), so that a run
            that the clock ends has still decayed. Learning rates then depend on the machine's
            speed, and a resumed run is no longer bitwise the uninterrupted one.

    Raises:
        ConfigError: a value is out of its range.
    """

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    parametrization: Parametrization = "mup"
    base_width: int = DEFAULT_BASE_WIDTH
    fix_weight_norm: bool = True
    initial_gate: float = 0.0
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    decay_from: float = 0.0
    final_fraction: float = 0.0
    anneal_over_budget: bool = False

    def __post_init__(self) -> None:
        _one_of("optimizer.parametrization", self.parametrization, Parametrization)
        _one_of("optimizer.schedule", self.schedule, Schedule)
        _require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"optimizer.learning_rate must be positive, got {self.learning_rate!r}",
        )
        _require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            f"optimizer.betas must be two numbers in [0, 1), got {self.betas!r}",
        )
        _require(self.eps > 0, f"optimizer.eps must be positive, got {self.eps!r}")
        _require(
            self.grad_clip is None or self.grad_clip > 0,
            f"optimizer.grad_clip must be positive or none, got {self.grad_clip!r}",
        )
        _at_least(0, weight_decay=self.weight_decay, warmup_steps=self.warmup_steps)
        _at_least(1, base_width=self.base_width)
        _share(final_fraction=self.final_fraction)
        _require(
            0.0 <= self.decay_from < 1.0,
            f"optimizer.decay_from must lie in [0, 1), got {self.decay_from!r}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Weights of the named loss terms; a term of weight 0 is not computed.

    Args:
        flow: of the mean squared velocity error, in every stage.
        entropy: lambda_ent of lookup-free quantization (stage 1A; supplement, Table 1).
        commitment: lambda_commit of lookup-free quantization (1A; Table 1).
        kl: of the Gaussian posterior's KL in nats an image (1A; our choice: docs/decisions/0023).
        perceptual: lambda_lpips, between image and one-step estimate (1A; Table 1).
        sample_perceptual: between image and sample of the chain (1B; supplement, Table 2).
        sample_mse: squared error of the sample (1B, distillation; not in the paper).
        teacher_l1: absolute error between student's and teacher's sample (distillation).
        teacher_perceptual: perceptual distance between the two (distillation).

    Raises:
        ConfigError: a weight is negative.
    """

    flow: float = 1.0
    entropy: float = 0.0025
    commitment: float = 0.000625
    kl: float = 1e-6
    perceptual: float = 0.1
    sample_perceptual: float = 0.01
    sample_mse: float = 0.0
    teacher_l1: float = 1.0
    teacher_perceptual: float = 0.1

    def __post_init__(self) -> None:
        _at_least(0, **{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class PerceptualConfig:
    """The frozen network that says how different two images look.

    Args:
        network: ``lpips-vgg`` (stage 1A and distillation), ``resnet50-logits`` (stage 1B),
            ``vgg-edge`` or ``efficientnet-lite0`` (distances of features of networks that the
            package index carries, :mod:`flowmo.training.perceptual.fetch`), or ``none``: the
            perceptual terms are left out.
        weights: ``library`` fetches or finds them as torchvision does; otherwise the file of
            torchvision's weights (``vgg16-397923af.pth``, ``resnet50-0676ba61.pth``, or safetensors
            of the same names). ``vgg-edge`` and ``efficientnet-lite0`` need the file that was
            fetched. ``random`` is for tests: it measures nothing that people see.
        blocks: of ``vgg-edge``, the first so many of its five.
        window: ``vgg-edge`` compares a square of so many pixels, at a place drawn for each
            micro-batch; 0 compares whole images.
        below: stage 1A compares an image with its one-step estimate only where t is at most this.

    Raises:
        ConfigError: no such network.
    """

    network: PerceptualNetwork = "none"
    weights: str = "library"
    blocks: int = 5
    window: int = 0
    below: float = 1.0

    def __post_init__(self) -> None:
        _one_of("perceptual.network", self.network, PerceptualNetwork)
        _at_least(0, window=self.window)
        _share(below=self.below)
        _require(
            1 <= self.blocks <= 5, f"perceptual.blocks must be 1 to 5, got {self.blocks!r}"
        )
        _require(self.weights != "", "perceptual.weights must not be empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class PostTrainConfig:
    """Stage 1B: the sample of a chain of steps is part of the loss (supplement A.2).

    Args:
        steps: n, Euler steps of the chain, at random times.
        recompute: keep only the state between steps and run each step's forward pass again in the
            backward pass (gradient checkpointing). Distillation uses it too.

    Raises:
        ConfigError: a value is out of its range.
    """

    steps: int = 8
    recompute: bool = True

    def __post_init__(self) -> None:
        _at_least(1, steps=self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Whom the student of ``model.sampler``'s few steps learns from.

    Args:
        teacher: checkpoint folder or hub repository; None is the run's ``init``.
        teacher_steps: of the teacher's grid; None is the teacher's own number.
        teacher_guidance: its guidance weight; None is its own. The student learns the guided
            result and needs no guidance itself.
        cache: folder for the teacher's samples, so that each is computed once; None for none.
        cache_epochs: how many different crops of each image there are with a cache. More epochs
            than that repeat them.

    Raises:
        ConfigError: a value is out of its range.
    """

    teacher: str | None = None
    teacher_steps: int | None = None
    teacher_guidance: float | None = None
    cache: str | None = None
    cache_epochs: int = 1

    def __post_init__(self) -> None:
        _at_least(1, cache_epochs=self.cache_epochs)
        if self.teacher_steps is not None:
            _at_least(1, teacher_steps=self.teacher_steps)
        if self.teacher_guidance is not None:
            _at_least(0, teacher_guidance=self.teacher_guidance)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationConfig:
    """Reconstruction of held-out images while training, and what follows from it.

    The averaged weights reconstruct with the model's own sampler; results are rounded to 8 bits.
    The best weights so far are kept in the run's ``best`` folder.

    Args:
        interval: steps between validations; 0 for none.
        paths: images that are never trained on; empty means the six held-out photographs.
        count: how many images, evenly spaced over ``paths``.
        metric: what "best" means: PSNR (dB), SSIM, or LPIPS-VGG (lower is better).
        lpips_weights: as ``perceptual.weights``, of the LPIPS metric.
        patience: stop after so many validations in a row without a better one; None never does.

    Raises:
        ConfigError: a value is out of its range.
    """

    interval: int = 0
    paths: tuple[str, ...] = ()
    count: int = 64
    metric: ValidationMetric = "psnr"
    lpips_weights: str = "library"
    patience: int | None = None

    def __post_init__(self) -> None:
        _one_of("validation.metric", self.metric, ValidationMetric)
        _at_least(0, interval=self.interval)
        _at_least(1, count=self.count)
        _require(
            self.patience is None or (self.patience >= 1 and self.interval > 0),
            f"validation.patience must be at least 1 and needs a validation.interval, "
            f"got patience {self.patience!r} and interval {self.interval}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole run of one stage.

    Args:
        stage: ``1a`` pre-trains (SPEC "Training objective"), ``1b`` post-trains through the
            sampling chain, ``distill`` teaches a student of few steps.
        init: checkpoint folder or hub repository whose weights the run begins with; None begins
            with random ones. Stages ``1b`` and ``distill`` need it.
        init_grown: the checkpoint of ``init`` may lack parts of the model, or have them in other
            shapes; they begin with random weights.
        model: sizes of the network, and its default sampler: of the sample grids, of validation,
            of the exported checkpoint, and in distillation the grid that the student learns.
        data: the images.
        optimizer: Adam and its schedule.
        losses: weights of the loss terms.
        perceptual: the network of the perceptual terms.
        post_train: the chain of stage 1B.
        distill: the teacher.
        validation: held-out images, the best weights, early stopping.
        output: run folder; logs, samples, checkpoints and the exported model go there.
        steps: optimizer steps of the whole run.
        max_minutes: stop after so many minutes of training, over all resumed parts; None never.
        batch_size: images an optimizer step, over all processes.
        accumulation: micro-batches a step and process; processes x accumulation divides
            ``batch_size``.
        ema_decay: decay of the weights' exponential moving average.
        ema_ramp: use min(decay, (1 + step) / (10 + step)), for runs of few steps.
        condition_dropout: share of samples that see the null condition.
        uniform_share: share of uniform times in the "fat" logit-normal.
        time_shift: s of t -> s t / (1 + (s - 1) t). 1 is the published distribution; above it,
            more of the training is near t = 1, where only the tokens can say what the picture is.
            Small pictures want it: at the same t, noise hides less of a large one.
        encoder_freeze_step: the encoder trains for so many steps; None for all.
        precision: ``bf16`` autocast (weights stay float32), ``float32``, or ``tf32``: float32 whose
            matrix products a GPU may round to 10 bits.
        compile: torch.compile the forward and backward pass.
        device: ``auto`` (a GPU if there is one), or a torch device such as ``cpu``, ``cuda:0``.
        parallel: with several processes (torchrun, Ray Train): ``ddp`` keeps a whole copy of the
            weights in each, ``fsdp`` shards them; ``auto`` is ``ddp`` if there are several.
        shard_size: with ``fsdp``, processes that share one copy of the weights, such as those of
            one machine; None for all of them.
        seed: of the initial weights, the data order, times, noise and dropout.
        log_interval: steps between log lines.
        sample_interval: steps between sample grids; 0 for none.
        sample_count: images of a grid.
        checkpoint_interval: steps between checkpoints; 0 for only the last.
        checkpoint_minutes: also a checkpoint after so many minutes; None for none.
        keep_checkpoints: how many of the latest checkpoints stay on disk.
        keep_every: checkpoints whose step is a multiple of this stay, too; 0 for none.
        keep_best: write a checkpoint at each best validation, and keep the latest of these.
        checkpoint_mirror: a URL (``s3://``, ``gs://``, or another of fsspec's) that gets a copy of
            every checkpoint and of the exported models; a run that finds no checkpoint in its
            folder resumes from there.
        tensorboard: write TensorBoard event files.

    Raises:
        ConfigError: a value is out of its range, or values do not fit together.
    """

    stage: Stage = "1a"
    init: str | None = None
    init_grown: bool = False
    model: FlowMoConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    losses: LossWeights = LossWeights()
    perceptual: PerceptualConfig = PerceptualConfig()
    post_train: PostTrainConfig = PostTrainConfig()
    distill: DistillConfig = DistillConfig()
    validation: ValidationConfig = ValidationConfig()
    output: str = "runs/flowmo"
    steps: int
    max_minutes: float | None = None
    batch_size: int = 128
    accumulation: int = 1
    ema_decay: float = 0.9999
    ema_ramp: bool = False
    condition_dropout: float = 0.1
    uniform_share: float = 0.1
    time_shift: float = 1.0
    encoder_freeze_step: int | None = 200_000
    precision: Precision = "bf16"
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
        _at_least(
            1,
            steps=self.steps,
            batch_size=self.batch_size,
            accumulation=self.accumulation,
            log_interval=self.log_interval,
            sample_count=self.sample_count,
            keep_checkpoints=self.keep_checkpoints,
        )
        _at_least(
            0,
            sample_interval=self.sample_interval,
            checkpoint_interval=self.checkpoint_interval,
            keep_every=self.keep_every,
            encoder_freeze_step=self.encoder_freeze_step or 0,
        )
        for name in ("max_minutes", "checkpoint_minutes"):
            minutes = getattr(self, name)
            _require(
                minutes is None or minutes > 0, f"{name} must be positive or none, got {minutes!r}"
            )
        _require(
            self.batch_size % self.accumulation == 0,
            f"accumulation {self.accumulation} must divide batch_size {self.batch_size}",
        )
        _require(
            not self.optimizer.anneal_over_budget or self.max_minutes is not None,
            "optimizer.anneal_over_budget needs max_minutes",
        )
        _share(
            condition_dropout=self.condition_dropout,
            uniform_share=self.uniform_share,
            ema_decay=self.ema_decay,
        )
        _one_of("precision", self.precision, Precision)
        _one_of("parallel", self.parallel, Parallel)
        _require(
            self.shard_size is None or (self.shard_size >= 1 and self.parallel == "fsdp"),
            f"shard_size must be at least 1 and belongs to parallel=fsdp, got {self.shard_size!r}",
        )
        _require(
            not self.keep_best or self.validation.interval > 0,
            "keep_best needs a validation.interval",
        )
        _require(
            math.isfinite(self.time_shift) and self.time_shift > 0,
            f"time_shift must be positive, got {self.time_shift!r}",
        )
        _one_of("stage", self.stage, Stage)
        self._check_stage()
        _require(0 <= self.seed < 2**63, f"seed must lie in 0 ... 2^63 - 1, got {self.seed!r}")

    def _check_stage(self) -> None:
        if self.stage == "1a":
            return
        _require(
            self.init is not None,
            f"stage {self.stage!r} trains on from a checkpoint: set init (--init FOLDER)",
        )
        if self.stage == "1b":
            return
        _require(
            self.encoder_freeze_step == 0,
            f"a student reads its teacher's tokens, so its encoder must stay as it is: set "
            f"encoder_freeze_step=0, got {self.encoder_freeze_step!r}",
        )
        _require(
            self.model.sampler.guidance == 1.0,
            f"a distilled student has its teacher's guidance in its weights: set "
            f"model.sampler.guidance=1, got {self.model.sampler.guidance:g}",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        data: dict[str, Any] = to_dict(self)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form.

        Raises:
            ConfigError: an unknown or missing field, a value of a wrong type or range.
        """
        return from_dict(cls, data)
