"""How many CPU threads one operation should have: measured, because more are not always quicker."""

import time
from collections.abc import Callable, Iterable

import torch

from flowmo.cores import usable_cores
from flowmo.deploy.buckets import powers_of_two
from flowmo.deploy.graphs import example, graph_of
from flowmo.model.inference import InferenceModel

# Rows of the step that is timed: one picture with guidance.
_ROWS = 2
_RUNS = 3
# More threads must be worth it: others want the cores, too.
_WORTHWHILE = 0.98


def fewest_of_the_quickest(counts: Iterable[int], seconds: Callable[[int], float]) -> int:
    """The smallest count that no larger one beats by more than 2 %.

    Args:
        counts: Numbers of threads, ascending.
        seconds: The time that the work takes with each of them.
    """
    best, best_seconds = 1, float("inf")
    for count in counts:
        if (measured := seconds(count)) < _WORTHWHILE * best_seconds:
            best, best_seconds = count, measured
    return best


def measure_threads(model: InferenceModel) -> int:
    """The number of threads with which a model on a CPU is quickest.

    A step of the decoder is measured, or the encoder of a model that has no decoder.

    Call it in a thread of its own: OpenMP keeps a pool for each thread that has computed.
    """
    half = model.halves[-1]
    inputs = example(model, half, _ROWS)
    graph = graph_of(model, half)
    before = torch.get_num_threads()

    def seconds(count: int) -> float:
        torch.set_num_threads(count)
        times = []
        with torch.inference_mode():
            for _ in range(1 + _RUNS):
                begin = time.perf_counter()
                graph(*inputs)
                times.append(time.perf_counter() - begin)
        return min(times[1:])

    try:
        return fewest_of_the_quickest(powers_of_two(usable_cores()), seconds)
    finally:
        torch.set_num_threads(before)
