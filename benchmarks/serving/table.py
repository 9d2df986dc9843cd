"""The figures as Markdown, for people."""

from collections.abc import Mapping, Sequence

from benchmarks.serving.goals import Goal
from benchmarks.serving.overload import Overload
from benchmarks.serving.scrape import Computed
from benchmarks.serving.summary import Spread
from benchmarks.serving.sweep import SweepPoint


def goals_table(goals: Sequence[Goal]) -> str:
    """A line a goal."""
    rows = [
        [g.name, g.wanted, "unknown" if g.got is None else f"{g.got:.3g}", "yes" if g.met else "no"]
        for g in goals
    ]
    return _table(["goal", "wanted", "got", "met"], rows)


def capacity_table(capacities: Mapping[str, Computed], mean_rows: float) -> str:
    """A line a discipline."""
    rows = [
        [
            name,
            f"{computed.rows_a_second / mean_rows:.2f}",
            f"{computed.rows_a_second:.1f}",
            f"{computed.rows_a_tick:.2f}",
            f"{computed.busy_seconds / max(1, computed.ticks) * 1e3:.0f}",
            _ticks(computed),
            _cores(computed),
        ]
        for name, computed in capacities.items()
    ]
    heads = [
        "batching by",
        "requests/s",
        "rows/s",
        "rows a tick",
        "ms a tick",
        "ticks by rows",
        "others' cores",
    ]
    return _table(heads, rows)


def sweep_table(points: Sequence[SweepPoint]) -> str:
    """A line a point."""
    rows = [
        [
            f"{point.load:.0%}",
            point.discipline,
            f"{point.summary.offered:.2f}",
            str(point.summary.requests),
            *_latency(point.summary.latency),
            "" if point.summary.queue is None else f"{point.summary.queue.mean:.2f}",
            f"{point.computed.rows_a_tick:.2f}",
            f"{point.summary.goodput:.2f}",
            _cores(point.computed),
        ]
        for point in points
    ]
    heads = ["load", "batching by", "offered/s", "requests", "p50", "p95", "p99", "mean queue"]
    return _table([*heads, "rows a tick", "goodput/s", "others' cores"], rows)


def kinds_table(points: Sequence[SweepPoint]) -> str:
    """p95 of each kind of request, a line a point."""
    kinds = sorted({kind for point in points for kind in point.summary.latency_by_kind})
    rows = []
    for point in points:
        found = [point.summary.latency_by_kind.get(kind) for kind in kinds]
        values = ["" if each is None else f"{each.p95:.2f}" for each in found]
        rows.append([f"{point.load:.0%}", point.discipline, *values])
    return _table(["load", "batching by", *kinds], rows)


def overload_table(overload: Overload) -> str:
    """What became of the requests."""
    summary = overload.point.summary
    seconds = summary.seconds
    rows = [
        ["offered", f"{summary.offered:.2f} requests/s, {summary.offered_rows:.1f} rows/s"],
        ["capacity", f"{overload.capacity_rows:.1f} rows/s"],
        ["good answers", f"{summary.goodput:.2f} requests/s, {summary.goodput_rows:.1f} rows/s"],
        ["useful work / capacity", f"{overload.useful:.3f}"],
        ["good answers / capacity in requests", f"{overload.answers_share:.2f}"],
        ["answers after the deadline", str(summary.late)],
        *([f"status {what}", f"{count / seconds:.2f}/s"] for what, count in summary.other.items()),
        ["rows computed for nothing", str(overload.point.wasted_rows)],
    ]
    return _table(["overload", "got"], rows)


def _latency(latency: Spread | None) -> list[str]:
    if latency is None:
        return ["", "", ""]
    return [f"{value:.2f}" for value in (latency.p50, latency.p95, latency.p99)]


def _ticks(computed: Computed) -> str:
    return ", ".join(f"≤{rows}: {ticks}" for rows, ticks in computed.ticks_up_to.items())


def _cores(computed: Computed) -> str:
    return "unknown" if computed.other_cores is None else f"{computed.other_cores:.2f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
