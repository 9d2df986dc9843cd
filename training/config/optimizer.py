"""Adam, its learning rates and their schedule."""

import math
from dataclasses import dataclass
from typing import Literal

from flowmo.training.config.checks import at_least, one_of, require, share

Schedule = Literal["constant", "linear", "cosine"]
Parametrization = Literal["mup", "standard"]
Init = Literal["adaln-zero", "published"]

DEFAULT_BASE_WIDTH = 768
"""muP width 4 x 192, where the paper tuned its hyperparameters (supplement A.1)."""


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
            not (see docs/decisions/0016).
        base_width: width at which both parametrizations agree; None is the model's own, of the
            encoder and of the decoder each, as in the published configuration: no rate is scaled.
        init: how a run that begins with no checkpoint sets its weights (docs/decisions/0016).
            ``adaln-zero``: N(0, 1 / fan_in), modulations, the velocity readout and biases at 0.
            ``published``: PyTorch's default, uniform within 1 / sqrt(fan_in), only the residual
            gates at 0; ``fix_weight_norm`` then holds the modulations' norms, too.
        head_rate: factor on the rate of a decoder's head, which a grown model learns from nothing.
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
    base_width: int | None = DEFAULT_BASE_WIDTH
    init: Init = "adaln-zero"
    head_rate: float = 1.0
    fix_weight_norm: bool = True
    initial_gate: float = 0.0
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    decay_from: float = 0.0
    final_fraction: float = 0.0
    anneal_over_budget: bool = False

    def __post_init__(self) -> None:
        one_of("optimizer.parametrization", self.parametrization, Parametrization)
        one_of("optimizer.schedule", self.schedule, Schedule)
        require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"optimizer.learning_rate must be positive, got {self.learning_rate!r}",
        )
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            f"optimizer.betas must be two numbers in [0, 1), got {self.betas!r}",
        )
        require(
            math.isfinite(self.head_rate) and self.head_rate > 0,
            f"optimizer.head_rate must be positive, got {self.head_rate!r}",
        )
        require(self.eps > 0, f"optimizer.eps must be positive, got {self.eps!r}")
        require(
            self.grad_clip is None or self.grad_clip > 0,
            f"optimizer.grad_clip must be positive or none, got {self.grad_clip!r}",
        )
        at_least(0, weight_decay=self.weight_decay, warmup_steps=self.warmup_steps)
        one_of("optimizer.init", self.init, Init)
        if self.base_width is not None:
            at_least(1, base_width=self.base_width)
        share(final_fraction=self.final_fraction)
        require(
            0.0 <= self.decay_from < 1.0,
            f"optimizer.decay_from must lie in [0, 1), got {self.decay_from!r}",
        )
