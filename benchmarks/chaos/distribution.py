"""The same fault many times: how often its target was met, and how long it took.

    python -m benchmarks.chaos.distribution ONE.json OTHER.json --out OUT

puts the reports of several runs of ``benchmarks.chaos`` into one, OUT.json and OUT.md.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.chaos.checked_load import Tally
from benchmarks.chaos.faults import Outcome
from flowmo.training.json_report import write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The least, the median, the 95th percentile and the most of some seconds."""

    least: float
    median: float
    p95: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.1f} / {self.p95:.1f} / {self.most:.1f} s"


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
    # Of 20 values the 19th: one that was measured, not one between two.
    p95 = float(np.quantile(values, 0.95, method="inverted_cdf"))
    return Range(least=min(values), median=median(values), p95=p95, most=max(values))


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
    """As Markdown; times are the median, the 95th percentile and the most."""
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


def merged(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The reports of several runs as one.

    Args:
        reports: Each as ``benchmarks.chaos`` writes it, by the run's name.

    Returns:
        All outcomes, their distributions, and by run what its logs and its machine were like.
    """
    outcomes = [outcome for report in reports.values() for outcome in _outcomes(report)]
    kept = ("access_lines", "load_average", "environment")
    return {
        "faults": [asdict(outcome) for outcome in outcomes],
        "distributions": [asdict(one) for one in distributions(outcomes)],
        "runs": {
            name: {key: report[key] for key in kept if key in report}
            for name, report in reports.items()
        },
    }


def _outcomes(report: Mapping[str, Any]) -> list[Outcome]:
    return [Outcome(**(row | {"tally": Tally(**row["tally"])})) for row in report["faults"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.distribution")
    parser.add_argument("reports", type=Path, nargs="+", help="JSON files of benchmarks.chaos")
    parser.add_argument("--out", type=Path, required=True, help="path of the report, no suffix")
    options = parser.parse_args(arguments)
    report = merged(
        {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in options.reports}
    )
    write_json(options.out.with_suffix(".json"), report)
    table = distribution_table(distributions(_outcomes(report)))
    options.out.with_suffix(".md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
