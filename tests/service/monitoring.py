"""What tests of metrics look at: the documented table, and every expression over it."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.prometheus import RULES, Prometheus
from tools.grafana.__main__ import DASHBOARDS
from tools.grafana.panels import Need

_TABLE = Path(__file__).parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `(flowmo_\w+)` \| (\w+) \| [^|]+ \|([^|]*)\| [^|]+ \|$", re.MULTILINE)
# Labels that Ray adds.
RAYS = {"application", "deployment", "replica", "Component", "NodeAddress", "SessionName",
        "Version", "WorkerId"}  # fmt: skip

Series = dict[str, tuple[str, frozenset[str]]]


def documented() -> Series:
    """Type and labels by name, of the table in docs/metrics.md."""
    rows = _ROW.findall(_TABLE.read_text(encoding="utf-8"))
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def documented_of_the_process() -> set[str]:
    """Series that only one process has."""
    return set(re.findall(r"`(process_\w+)`", _TABLE.read_text(encoding="utf-8")))


def families(text: str) -> set[str]:
    """Names of a scrape, as its TYPE lines have them."""
    return set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


def exported(text: str) -> Series:
    """Type and labels by name, of a scrape; without what Ray adds to them."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("ray_")
        if not name.startswith("flowmo_"):
            continue
        labels: frozenset[str] = frozenset()
        for sample in family.samples:
            keys = {key for key in sample.labels if not key.startswith("otel_")}
            labels |= frozenset(keys - RAYS - {"le"})
        found[name + "_total" * (family.type == "counter")] = (family.type, labels)
    return found


def recorded() -> set[str]:
    """Names that the recording rules make."""
    groups = yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def without_data(
    prometheus: Prometheus, *, job: str, have: Iterable[Need], rate_interval: str
) -> list[str]:
    """Panels of all dashboards that stay empty although they should not.

    Every expression is evaluated, whether it should have data or not.

    Args:
        prometheus: has scraped a server.
        job: The server's job label.
        have: what there is.
        rate_interval: The window of rates, as Prometheus writes it.

    Raises:
        PrometheusError: an expression cannot be evaluated.
    """
    empty = []
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries:
                expression = query.filled_in(job=job, rate_interval=rate_interval)
                values = [float(one["value"][1]) for one in prometheus.query(expression)]
                if query.needs in have and not any(map(math.isfinite, values)):
                    empty.append(f"{dashboard.uid}, {panel.title}: {expression}")
    return empty
