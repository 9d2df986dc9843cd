"""Which rows share a tick, and when a piece of work will be done: pure arithmetic.

A *row* is one evaluation of the network for one picture; a guided step takes two rows of the same
tick. A *tick* is one batch of rows. A *bucket* is a batch size that the runner computes; its rows
are *slots* for work.

The order of the steps is :class:`service.engine.fairness.FairQueue`'s; here it is chosen how many
of them share a tick. :func:`choose` guarantees to the first that it is in the tick, and to the
device that no tick has more rows than its bucket.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

# Seconds of ticks over which it is averaged how much slower they are than at warm-up, the most that
# one tick may count, and the seconds that a tick may count for beyond those that it should take.
_MEMORY = 1.0
_MOST_WEIGHT = 0.5
_STALL = 0.05
# What a start measures: at least so many rounds over all buckets, until so many in a row have found
# none of them quicker by this share, within a bounded number and time.
_LEAST_ROUNDS = 6
_MOST_ROUNDS = 24
_QUIET_ROUNDS = 4
_QUICKER = 0.98
_MEASURE_SECONDS = 5.0
# How far one batch may move an estimate, and how much of what the machine's speed does not explain
# a bucket's own time takes over.
_OUTLIER = 2.0
_OWN_WEIGHT = 0.02
# A larger bucket is worth having only if it finishes this many times the rows a second.
_WORTHWHILE = 1.02


def measure(buckets: Sequence[int], seconds_of: Callable[[int], float]) -> dict[int, float]:
    """Measure how long a batch of each bucket takes, until it is known.

    The buckets take turns, and the least time of each counts: what disturbs a machine only ever
    adds, and a slow spell is everybody's.

    Args:
        buckets: The batch sizes.
        seconds_of: Runs a batch of a size, and says how many seconds it took.

    Returns:
        The seconds of a batch by its bucket.
    """
    least = dict.fromkeys(buckets, math.inf)
    spent, quiet = 0.0, 0
    for number in range(1, _MOST_ROUNDS + 1):
        quiet += 1
        for bucket in buckets:
            seconds = seconds_of(bucket)
            spent += seconds
            if seconds < _QUICKER * least[bucket]:
                quiet = 0
            least[bucket] = min(least[bucket], seconds)
        if number >= _LEAST_ROUNDS and quiet >= _QUIET_ROUNDS:
            break
        if number > 1 and spent > _MEASURE_SECONDS:  # a first batch may prepare much
            break
    return least


class BucketTimes:
    """How long a batch of each bucket takes.

    One factor follows the machine's speed, so that buckets which have not been used lately stay
    comparable; what it does not explain is learned for each bucket slowly.

    Args:
        seconds: The measured time of a batch, in seconds above 0, by its bucket.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        assert seconds and all(s > 0 for s in seconds.values())
        self._base = dict(sorted(seconds.items()))
        self._factor = 1.0
        self._last = 0
        self._buckets = tuple(self._base)
        self._least = self._least_of_a_row()

    @property
    def buckets(self) -> tuple[int, ...]:
        """The buckets, ascending."""
        return self._buckets

    def seconds(self, bucket: int) -> float:
        """The expected time of a batch of this bucket."""
        return self._base[bucket] * self._factor

    def smallest(self, rows: int) -> int:
        """The smallest bucket that holds ``rows`` rows; the largest if none does."""
        return next((b for b in self._base if b >= rows), self.buckets[-1])

    def least_seconds(self, rows: int) -> float:
        """The time that ``rows`` rows take in the most efficient batches, among many others."""
        return rows * self._least * self._factor

    def observe(self, bucket: int, seconds: float) -> None:
        """Learn from a batch that was run.

        It counts for as long as it took, so that a machine which is busy for good is found out in
        seconds of it; but one stall among hundreds of quick ticks says little.

        Args:
            bucket: The bucket of the batch.
            seconds: The time that the batch took.
        """
        expected = self.seconds(bucket)
        ratio = min(_OUTLIER, max(1 / _OUTLIER, seconds / expected))
        counted = max(expected, min(seconds, _STALL))
        self._factor *= 1 + min(_MOST_WEIGHT, counted / _MEMORY) * (ratio - 1)
        if self._last not in {0, bucket}:  # one bucket alone says nothing about its ratio to others
            own = min(_OUTLIER, max(1 / _OUTLIER, seconds / self.seconds(bucket)))
            self._base[bucket] *= 1 + _OWN_WEIGHT * (own - 1)
            self._least = self._least_of_a_row()
        self._last = bucket

    def correct(self, bucket: int, seconds: float) -> None:
        """Take over what was measured while the device had nothing else to do.

        Args:
            bucket: The bucket of the batches that were run.
            seconds: The least time that one of them took; above 0.
        """
        self._factor = seconds / self._base[bucket]

    def _least_of_a_row(self) -> float:
        return min(seconds / bucket for bucket, seconds in self._base.items())


def worthwhile(seconds: Mapping[int, float], *, keep: int) -> dict[int, float]:
    """The buckets worth using: those that finish more rows a second than every smaller one.

    Args:
        seconds: The measured time of a batch, in seconds, by its bucket.
        keep: The size up to which buckets stay in any case.

    Returns:
        The times of the buckets that are worth using.
    """
    kept: dict[int, float] = {}
    best = 0.0
    for bucket, time in sorted(seconds.items()):
        rate = bucket / time
        if bucket <= keep or rate > best * _WORTHWHILE:
            kept[bucket] = time
        best = max(best, rate)
    return kept


@dataclass(frozen=True, slots=True)
class Tick:
    """The batch to run next.

    Attributes:
        chosen: The indices, in the list of waiting steps, of those that are in the batch.
        bucket: The size of the batch; its rows beyond those of ``chosen`` are padding.
    """

    chosen: tuple[int, ...]
    bucket: int


def choose(rows: Sequence[int], times: BucketTimes) -> Tick:
    """Choose the tick that finishes most rows a second among those with the first step in them.

    Guaranteed to the steps: the first is in the tick, and the others join in their order as far as
    they fit. Guaranteed to the device: the rows of the chosen steps are at most the
    bucket, which is one of ``times``.

    Args:
        rows: The rows of each waiting step, 1 or 2, in their order; not empty.
        times: How long a batch of each bucket takes; the largest bucket holds ``rows[0]``.
    """
    best: Tick | None = None
    best_rate = 0.0
    for bucket in times.buckets:
        chosen, used = _fill(rows, bucket)
        # Without the first in every tick, a step of two rows could wait for ever.
        if not chosen or chosen[0] != 0:
            continue
        rate = used / times.seconds(bucket)
        if best is None or rate > best_rate:
            best, best_rate = Tick(chosen, bucket), rate
    assert best is not None, (rows, times.buckets)
    return best


def whole(rows: int, times: BucketTimes) -> int | None:
    """The bucket in which all steps are made at once, where :func:`choose` would choose that.

    Args:
        rows: The rows of all steps together, at least 1.
        times: How long a batch of each bucket takes.

    Returns:
        The bucket; None if the steps do not fit, or if it must be looked at them one by one.
    """
    rate = 0.0
    for bucket in times.buckets:
        seconds = times.seconds(bucket)
        if bucket >= rows:
            return bucket if rows / seconds >= rate else None
        rate = max(rate, bucket / seconds)
    return None


def _fill(rows: Sequence[int], bucket: int) -> tuple[tuple[int, ...], int]:
    chosen, used = [], 0
    for index, need in enumerate(rows):
        if used + need <= bucket:
            chosen.append(index)
            used += need
            if used == bucket:
                break
    return tuple(chosen), used


@dataclass(frozen=True, slots=True)
class Load:
    """What is left of a decode.

    Attributes:
        steps: The steps that are still to be made, one after the other.
        rows: The network evaluations of these steps, guided steps counting twice.
    """

    steps: int
    rows: int


def completion(inside: int, ahead: int, rows: float, new: Load, times: BucketTimes) -> float:
    """The seconds until ``new`` is done.

    Each tick takes as long as a batch of as many rows as there are, at most the largest bucket.
    Work that finds free slots waits for nobody; else for the rows that go before it. A step of more
    rows than the largest bucket has takes several ticks.

    Args:
        inside: The pieces of work that are inside, one of several parts counted as many.
        ahead: Those of them that go before it.
        rows: The network evaluations that are made for others until it is done.
        new: The work whose completion is asked for.
        times: How long a batch of each bucket takes.
    """
    slots = times.buckets[-1]
    own = -(-new.rows // max(1, new.steps))
    bucket = times.smallest(min(inside + own, slots))
    wait = 0.0 if ahead + own <= slots else rows / slots
    return (wait + new.steps * -(-own // slots)) * times.seconds(bucket)


def backlog(loads: Iterable[tuple[int, int]], times: BucketTimes) -> float:
    """The seconds until a slot of the largest bucket is free: 0 while one is.

    Args:
        loads: The rows that are left of each piece of work, and the parts that they come in at
            once, 1 for a square.
        times: How long a batch of each bucket takes.
    """
    slots = times.buckets[-1]
    free = [0.0] * slots
    for rows, parts in loads:
        parts = min(parts, slots)
        for _ in range(parts):
            heapq.heapreplace(free, free[0] + rows / parts)
    return free[0] * times.seconds(slots)
