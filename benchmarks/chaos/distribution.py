"""The same fault many times: how often its target was met, and how long it took."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.chaos.faults import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The least, the middle and the most of some seconds."""

    least: float
    median: float
    most: float

    def __str__(self) -> str:
        return f"{self.least:.1f} / {self.median:.1f} / {self.most:.1f} s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """All outcomes of one fault.

    Attributes:
        fault: The name of the fault.
        times: How often it was injected.
        met: How often its target was met.
        target: The target.
        requests: The requests of all times together.
        first_failed: Those of them whose first attempt failed.
        how: What these failed with, and how often.
        failed: Those that failed in the end, were lost or wrong.
        replaced: The seconds until what was broken was replaced; None where nothing is.
        gap: The longest seconds without an answer.
    """

    fault: str
    times: int
    met: int
    target: str
    requests: int
    first_failed: int
    how: dict[str, int]
    failed: int
    replaced: Range | None
    gap: Range


def _range(values: Sequence[float]) -> Range:
    return Range(least=min(values), median=median(values), most=max(values))


def distributions(outcomes: Sequence[Outcome]) -> list[Distribution]:
    """Put the outcomes of each fault together, in the order of their first injections."""
    found: list[Distribution] = []
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.fault == fault]
        tallies = [outcome.tally for outcome in own]
        replaced = [o.recovery_seconds for o in own if o.recovery_seconds is not None]
        how: Counter[str] = Counter()
        for tally in tallies:
            how.update(tally.how)
        found.append(
            Distribution(
                fault=fault,
                times=len(own),
                met=sum(outcome.met for outcome in own),
                target=own[0].target,
                requests=sum(tally.sent for tally in tallies),
                first_failed=sum(tally.first_failed for tally in tallies),
                how=dict(how),
                failed=sum(tally.failed + tally.lost + tally.wrong for tally in tallies),
                replaced=_range(replaced) if replaced else None,
                gap=_range([tally.longest_gap_seconds for tally in tallies]),
            )
        )
    return found


def distribution_table(found: Sequence[Distribution]) -> str:
    """As Markdown; times are the least, the median and the most."""
    columns = ["fault", "times", "met", "requests", "first attempt failed", "failed, lost, wrong"]
    columns += ["replaced after", "longest gap"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for one in found:
        how = ", ".join(f"{end}: {count}" for end, count in one.how.items())
        first = f"{one.first_failed} ({how})" if how else str(one.first_failed)
        lines.append(
            f"| {one.fault} | {one.times} | {one.met} | {one.requests} | {first} | {one.failed} "
            f"| {one.replaced or ''} | {one.gap} |"
        )
    return "\n".join(lines) + "\n"
