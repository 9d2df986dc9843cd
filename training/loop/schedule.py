"""The learning rate's factor over a run, in [0, 1]."""

import math

from flowmo.training.config import OptimizerConfig


def progress(
    *, step: int, steps: int, seconds: float, max_minutes: float | None, over_budget: bool
) -> float:
    """Share of the run that is done, in [0, 1].

    Args:
        step: steps done.
        steps: steps of the run.
        seconds: training time so far, over all resumed parts.
        max_minutes: the run's time budget, if any.
        over_budget: whether the budget counts (``optimizer.anneal_over_budget``).
    """
    done = step / steps
    if over_budget and max_minutes is not None:
        done = max(done, seconds / (60 * max_minutes))
    return min(done, 1.0)


def learning_rate_factor(config: OptimizerConfig, *, step: int, progress: float) -> float:
    """What the learning rate is multiplied by in the step after ``step`` steps.

    Args:
        config: schedule, warm-up, start and end of the decay.
        step: steps done.
        progress: share of the run that is done.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return warmup
    decayed = max(0.0, progress - config.decay_from) / (1.0 - config.decay_from)
    left = 1.0 - decayed if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * decayed))
    return warmup * (config.final_fraction + (1.0 - config.final_fraction) * left)
