"""Figures of what became of many requests."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.serving.load import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How values are distributed, in their own unit."""

    mean: float
    p50: float
    p95: float
    p99: float
    largest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Requests of one load.

    Attributes:
        seconds: during which they were planned.
        requests: how many.
        offered: requests a second.
        offered_rows: evaluations of the network a second that they asked for.
        answers: how many got a picture.
        other: how many got something else, by status and problem.
        goodput: pictures a second that came within the limit.
        goodput_rows: evaluations of the network a second that were spent on these.
        late: pictures that came after the limit.
        latency: seconds from the planned instant to the whole picture; None without any.
        latency_by_kind: The latency of each kind of request that got a picture.
        queue: seconds that the server says these waited for the device.
        lag: seconds by which requests were sent late.
    """

    seconds: float
    requests: int
    offered: float
    offered_rows: float
    answers: int
    other: dict[str, int]
    goodput: float
    goodput_rows: float
    late: int
    latency: Spread | None
    latency_by_kind: dict[str, Spread]
    queue: Spread | None
    lag: Spread | None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least a share of them does not exceed (nearest rank).

    Args:
        values: in any order.
        share: above 0, at most 1.

    Raises:
        ValueError: no values, or another share.
    """
    if not values or not 0 < share <= 1:
        raise ValueError(f"values and a share in (0, 1] are needed, got {len(values)} and {share}")
    # A product that only rounding has put above a whole number must not move the rank.
    rank = math.ceil(round(share * len(values), 9))
    return sorted(values)[rank - 1]


def spread(values: Sequence[float]) -> Spread:
    """Mean, percentiles and largest.

    Raises:
        ValueError: no values.
    """
    return Spread(
        mean=sum(values) / len(values),
        p50=percentile(values, 0.50),
        p95=percentile(values, 0.95),
        p99=percentile(values, 0.99),
        largest=max(values),
    )


def summarize(outcomes: Sequence[Outcome], *, seconds: float, limit: float) -> Summary:
    """Figures of requests.

    Args:
        outcomes: The outcomes of the requests planned in the measured time.
        seconds: length of that time.
        limit: latency up to which an answer is a good one, in seconds.
    """
    answers = [outcome for outcome in outcomes if outcome.is_answer]
    good = [outcome for outcome in answers if outcome.latency <= limit]
    by_kind = {
        name: spread([o.latency for o in answers if o.ask.kind.name == name])
        for name in sorted({outcome.ask.kind.name for outcome in answers})
    }
    return Summary(
        seconds=seconds,
        requests=len(outcomes),
        offered=len(outcomes) / seconds,
        offered_rows=_rows(outcomes) / seconds,
        answers=len(answers),
        other=dict(Counter(_what_came(o) for o in outcomes if not o.is_answer).most_common()),
        goodput=len(good) / seconds,
        goodput_rows=_rows(good) / seconds,
        late=len(answers) - len(good),
        latency=_spread_of_any([outcome.latency for outcome in answers]),
        latency_by_kind=by_kind,
        queue=_spread_of_any([o.stages["queue"] for o in answers if "queue" in o.stages]),
        lag=_spread_of_any([outcome.lag for outcome in outcomes]),
    )


def _spread_of_any(values: Sequence[float]) -> Spread | None:
    return spread(values) if values else None


def _rows(outcomes: Iterable[Outcome]) -> int:
    return sum(outcome.ask.rows for outcome in outcomes)


def _what_came(outcome: Outcome) -> str:
    return " ".join(str(part) for part in (outcome.status, outcome.problem) if part)
