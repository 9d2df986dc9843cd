"""The picture of the dashboards; that expressions have data is tested with the service."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.dashboard.__main__ import TITLES
from benchmarks.dashboard.draw import draw
from tools.grafana.__main__ import DASHBOARDS
from tools.grafana.panels import Panel, Query


class Canned:
    """Answers like Prometheus, with gaps, nothing, and two series."""

    def query_range(
        self, expression: str, *, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        if expression == "nothing":
            return []
        points: Sequence[tuple[float, str]] = [(start, "1"), (start + 30, "NaN"), (end, "3.5")]
        return [{"metric": {"status": status}, "values": points} for status in ("200", "429")]


def test_every_kind_of_panel_is_drawn(tmp_path: Path) -> None:
    def panel(expression: str, *, stacked: bool) -> Panel:
        return Panel(
            title=expression,
            description="One.",
            unit="percentunit" if stacked else "s",
            queries=[Query(expression, "{{status}}")],
            limits=(1, 2),
            stacked=stacked,
        )

    panels = [panel("a", stacked=True), panel("a", stacked=False), panel("nothing", stacked=True)]
    out = tmp_path / "picture.png"
    phases = [(0.0, "half"), (60.0, "all")]
    draw(Canned(), panels, out, start=0.0, end=120.0, phases=phases, rate_interval="20s")
    with Image.open(out) as picture:
        assert picture.width > picture.height > 100


def test_the_panels_that_are_drawn_exist() -> None:
    titles = {panel.title for dashboard in DASHBOARDS for panel in dashboard.panels}
    assert set(TITLES) <= titles
