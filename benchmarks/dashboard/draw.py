"""Panels as matplotlib draws them."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tools.grafana.panels import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_POINTS = 160
_UNITS = {"s": "s", "reqps": "requests/s", "ops": "a second", "bytes": "bytes", "short": ""}
_MOST_SERIES = 6

# Legend and points (minutes, value) of one line.
Line = tuple[str, list[float], list[float]]


class Source(Protocol):
    """Something that evaluates expressions over a time, as Prometheus does."""

    def query_range(
        self, expression: str, *, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """See :meth:`benchmarks.prometheus.Prometheus.query_range`."""
        ...


def draw(
    prometheus: Source,
    panels: Sequence[Panel],
    out: Path,
    *,
    start: float,
    end: float,
    phases: Sequence[tuple[float, str]],
    rate_interval: str,
) -> None:
    """Draw panels over a time.

    Args:
        prometheus: has the data.
        panels: each becomes one rectangle.
        out: PNG file to write.
        start: in Unix time.
        end: in Unix time.
        phases: begin and name of each part of the time.
        rate_interval: The window of rates, as Prometheus writes it.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = math.ceil(len(panels) / _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(4.1 * _COLUMNS, 2.9 * rows), sharex=True)
    for axis, panel in zip(axes.flat, panels, strict=False):
        lines = [
            line
            for query in panel.queries
            for line in _lines(
                prometheus.query_range(
                    query.filled_in(job=".*", rate_interval=rate_interval),
                    start=start,
                    end=end,
                    step=(end - start) / _POINTS,
                ),
                query.legend,
                start,
            )
        ]
        _panel(axis, panel, lines)
        for begin, _ in phases[1:]:
            axis.axvline((begin - start) / 60, color="grey", linewidth=0.7, linestyle=":")
    for axis in axes.flat[:_COLUMNS]:
        height = axis.get_ylim()[1]
        for begin, name in phases:
            place = ((begin - start) / 60 + 0.04, 0.98 * height)
            axis.annotate(name, place, fontsize=7, color="grey", va="top")
    for axis in axes.flat[-_COLUMNS:]:
        axis.set_xlabel("minutes", fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=80)
    plt.close(figure)


def _lines(series: Sequence[Mapping[str, Any]], legend: str, start: float) -> list[Line]:
    found = []
    for one in series:
        name = legend
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            name = name.replace(f"{{{{{label}}}}}", one["metric"].get(label, ""))
        points = [(float(at), float(value)) for at, value in one["values"]]
        minutes = [(at - start) / 60 for at, _ in points]
        found.append((name.strip(), minutes, [value for _, value in points]))
    return found


def _panel(axis: "Axes", panel: Panel, lines: Sequence[Line]) -> None:
    scale = 100 if panel.unit == "percentunit" else 1
    # Those that matter most, should there be many.
    lines = [line for line in lines if line[0] or len(lines) == 1]
    lines = sorted(lines, key=lambda line: -max(map(_finite, line[2]), default=0))[:_MOST_SERIES]
    base: dict[float, float] = {}
    for name, minutes, values in lines:
        scaled = [scale * value for value in values]
        if panel.stacked:
            low = [base.get(at, 0.0) for at in minutes]
            high = [bottom + _finite(value) for bottom, value in zip(low, scaled, strict=True)]
            axis.fill_between(minutes, low, high, alpha=0.55, linewidth=0, label=name)
            base |= dict(zip(minutes, high, strict=True))
        else:
            axis.plot(minutes, scaled, linewidth=1.2, label=name)
    top = axis.get_ylim()[1]
    for limit, colour in dict(
        zip(panel.limits or (), ("goldenrod", "firebrick"), strict=False)
    ).items():
        if scale * limit <= 1.5 * top:
            axis.axhline(scale * limit, color=colour, linewidth=0.8, linestyle="--")
    axis.set_ylim(bottom=0)
    axis.set_title(panel.title, fontsize=10, fontweight="bold", loc="left")
    axis.set_ylabel("%" if scale == 100 else _UNITS[panel.unit], fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
    if lines:
        axis.legend(fontsize=6.5, loc="best", framealpha=0.6)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
