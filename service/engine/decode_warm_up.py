"""The first batches of a decoder: they are slower than all later ones, and say what each costs."""

import time

import numpy as np

from flowmo.model.config import FlowMoConfig
from flowmo.model.sampler import time_grid
from flowmo.model.tokens import Tokens
from flowmo.service.engine.decode_ticks import MIN_ROWS
from flowmo.service.engine.runner import DecoderRunner
from flowmo.service.engine.schedule import BucketTimes, measure, worthwhile


def warm_up(runner: DecoderRunner) -> tuple[BucketTimes, float]:
    """Compute batches of every size, and all else that is kept from the first time on.

    Args:
        runner: What computes them; called from the device thread.

    Returns:
        The seconds of those batch sizes that are worth using, and of the slowest of all.
    """
    config = runner.info.config
    size = config.image_size
    times = time_grid(config.sampler)[:-1]
    x, condition = (part.to(runner.device) for part in runner.begin(_any_tokens(config), 0))

    def seconds_of(bucket: int) -> float:
        at = [times[i % len(times)] for i in range(bucket)]
        begin = time.perf_counter()
        runner.velocity(x.expand(bucket, 3, size, size), at, condition.expand(bucket, -1, -1))
        runner.synchronize()
        return time.perf_counter() - begin

    seconds = measure(runner.buckets, seconds_of)
    least = runner.buckets[0]
    for t in times:  # what is kept of each time of the default grid
        runner.velocity(
            x.expand(least, 3, size, size), [t] * least, condition.expand(least, -1, -1)
        )
    runner.pixels(x[None])
    return BucketTimes(worthwhile(seconds, keep=MIN_ROWS)), max(seconds.values())


def _any_tokens(config: FlowMoConfig) -> Tokens:
    ids = np.zeros((config.code_length, config.ids_per_token), np.int32)
    return Tokens(ids=ids, group_bits=config.group_bits)
