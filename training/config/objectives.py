"""What tasks minimize: weights of the losses, and the options of each task."""

from dataclasses import dataclass, fields
from typing import Literal

from flowmo.training.config.checks import at_least, one_of, require, share

PerceptualNetwork = Literal[
    "none", "lpips-vgg", "resnet50-logits", "vgg-edge", "efficientnet-lite0"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Weights of the named loss terms; a term of weight 0 is not computed.

    Each task reads some of them; one that it ignores must stay at its default. Numbers in brackets
    are the tables of the supplement.

    Args:
        flow: The weight of the mean squared velocity error; all tasks.
        flow_full_from: The time below which the squared error is weighted by (t / it)^2, which
            makes it one of the image; 0 weights all times alike. An error of a predicted image is
            divided by t^2, and at small t nothing else would be learned.
        entropy: lambda_ent of lookup-free quantization; ``pretrain`` (Table 1).
        commitment: lambda_commit of lookup-free quantization; ``pretrain`` (Table 1).
        kl: The weight of the Gaussian posterior's KL in nats an image; ``pretrain`` (our choice:
            docs/decisions/0016).
        perceptual: lambda_lpips, between image and one-step estimate; ``pretrain`` (Table 1).
        sample_perceptual: The weight of the perceptual distance between image and sample of the
            chain; ``post-train`` (Table 2), ``distill``.
        sample_mse: The weight of that sample's squared error; ``post-train`` and ``distill`` (not
            in the paper).
        teacher_l1: The weight of the absolute error between student's and teacher's sample;
            ``distill``.
        teacher_perceptual: The weight of the perceptual distance between the two; ``distill``.

    Raises:
        ConfigError: a weight is negative.
    """

    flow: float = 1.0
    flow_full_from: float = 0.0
    entropy: float = 0.0025
    commitment: float = 0.000625
    kl: float = 1e-6
    perceptual: float = 0.1
    sample_perceptual: float = 0.01
    sample_mse: float = 0.0
    teacher_l1: float = 1.0
    teacher_perceptual: float = 0.1

    def __post_init__(self) -> None:
        at_least(0, **{field.name: getattr(self, field.name) for field in fields(self)})


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
        blocks: How many of the first of the five blocks of ``vgg-edge`` are used.
        window: stages 1A and 1B compare a square of so many pixels, a multiple of 8, at a place
            that is drawn for each micro-batch; 0 compares whole images.
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
        one_of("perceptual.network", self.network, PerceptualNetwork)
        require(self.weights != "", "perceptual.weights must not be empty")
        require(1 <= self.blocks <= 5, f"perceptual.blocks must be 1 to 5, got {self.blocks!r}")
        require(
            self.window >= 0 and self.window % 8 == 0,
            f"perceptual.window must be 0 or a positive multiple of 8, got {self.window!r}",
        )
        share(**{"perceptual.below": self.below})


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
        at_least(1, steps=self.steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Whom the student of ``model.sampler``'s few steps learns from.

    Args:
        teacher: checkpoint folder or hub repository; None is the run's ``init``.
        teacher_steps: The number of steps of the teacher's grid; None is the teacher's own number.
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
        at_least(1, cache_epochs=self.cache_epochs)
        if self.teacher_steps is not None:
            at_least(1, teacher_steps=self.teacher_steps)
        if self.teacher_guidance is not None:
            at_least(0, teacher_guidance=self.teacher_guidance)
