"""Timing several ways to do one thing, in turns, so that a slow spell of the machine meets all."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

WARM_RUNS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds of one way.

    Attributes:
        median: The median of all rounds.
        low: a tenth of the rounds were quicker.
        high: a tenth were slower.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        """Of measured rounds; at least one."""
        ordered = sorted(seconds)
        last = len(ordered) - 1
        return cls(
            median=statistics.median(ordered),
            low=ordered[round(0.1 * last)],
            high=ordered[round(0.9 * last)],
            rounds=len(ordered),
        )


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_runs: int = WARM_RUNS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each way once a round, the order turned by one each round.

    Args:
        ways: by name; each does the whole thing when it is called.
        rounds: at least 1; each way is warmed up before.
        warm_runs: how often each way is called for that.
        clock: in seconds.
    """
    if rounds < 1:
        raise ValueError(f"at least one round is needed, got {rounds}")
    for way in ways.values():
        for _ in range(warm_runs):
            way()
    synchronize()
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            begin = clock()
            ways[name]()
            synchronize()
            seconds[name].append(clock() - begin)
    return {name: Timing.of(found) for name, found in seconds.items()}
