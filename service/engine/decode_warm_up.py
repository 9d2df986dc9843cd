"""The first batches of a decoder: they are slower than all later ones, and say what each costs."""

import time
from collections.abc import Callable
from functools import cache

import numpy as np
from torch import Tensor

from flowmo.model.config import FlowMoConfig
from flowmo.model.sampler import time_grid
from flowmo.model.tokens import Tokens
from flowmo.service.engine.runner import DecoderRunner
from flowmo.service.engine.schedule import BucketTimes, measure, worthwhile
from flowmo.service.engine.step_ticks import MIN_ROWS


def warm_up(runner: DecoderRunner) -> tuple[BucketTimes, float]:
    """Compute batches of every size, and all else that is kept from the first time on.

    Args:
        runner: What computes them; called from the device thread.

    Returns:
        The seconds of those batch sizes that are worth using, and of the slowest of all.
    """
    seconds = measure(runner.buckets, seconds_of_batch(runner))
    x, condition, times = _any_row(runner)
    least = runner.buckets[0]
    for t in times:  # what is kept of each time of the default grid
        runner.velocity(x.expand(least, *x.shape), [t] * least, condition.expand(least, -1, -1))
    runner.pixels(x[None])
    return BucketTimes(worthwhile(seconds, keep=MIN_ROWS)), max(seconds.values())


def seconds_of_batch(runner: DecoderRunner) -> Callable[[int], float]:
    """What runs a batch of a size for its time alone, from the device thread.

    Args:
        runner: What computes it.

    Returns:
        A function of the number of rows, which gives seconds.
    """
    row = cache(lambda: _any_row(runner))  # made on the device thread, and once

    def seconds_of(bucket: int) -> float:
        x, condition, times = row()
        at = [times[i % len(times)] for i in range(bucket)]
        begin = time.perf_counter()
        runner.velocity(x.expand(bucket, *x.shape), at, condition.expand(bucket, -1, -1))
        runner.synchronize()
        return time.perf_counter() - begin

    return seconds_of


def _any_row(runner: DecoderRunner) -> tuple[Tensor, Tensor, list[float]]:
    """A start and a condition on the device, and the times of the default grid but the last."""
    config = runner.info.config
    x, condition = (part.to(runner.device) for part in runner.begin(_any_tokens(config), 0))
    return x, condition, list(time_grid(config.sampler)[:-1])


def _any_tokens(config: FlowMoConfig) -> Tokens:
    ids = np.zeros((config.code_length, config.ids_per_token), np.int32)
    return Tokens(ids=ids, group_bits=config.group_bits)
