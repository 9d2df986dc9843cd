"""Panels and dashboards as values, and the JSON that Grafana reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Grafana's units.
Unit = Literal[
    "s", "ms", "bytes", "mbytes", "short", "reqps", "ops", "percentunit", "percent", "watt",
    "celsius", "rotmhz", "hertz",
]  # fmt: skip
Kind = Literal["timeseries", "stat", "heatmap"]
# What must be there for a query to have data: `service` is either form of it.
Need = Literal["service", "keys", "prior", "ray", "gpu"]

# Of Grafana 11; later ones bring it up to their own when they load it.
SCHEMA_VERSION = 39
_COLUMNS = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel.

    Attributes:
        expression: PromQL with Grafana's ``$__rate_interval`` and our ``$job``.
        legend: The legend of its series; ``{{label}}`` is replaced.
        needs: what must be there for it to have data.
    """

    expression: str
    legend: str
    needs: Need = "service"

    def filled_in(self, *, job: str, rate_interval: str) -> str:
        """What Prometheus can evaluate.

        Args:
            job: pattern of the jobs.
            rate_interval: such as ``1m``.
        """
        return self.expression.replace("$__rate_interval", rate_interval).replace("$job", job)


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """What is drawn in one rectangle.

    Attributes:
        title: what it shows.
        description: how to read it.
        unit: The unit of its values.
        queries: what is drawn.
        kind: how.
        width: in 24ths of the page.
        limits: values from which on it is drawn as bad, yellow and red.
        most: end of the axis, where there is a natural one.
        stacked: whether series are drawn on top of each other.
        exemplars: whether points that lead to a trace are drawn beside them.
    """

    title: str
    description: str
    unit: Unit
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    width: int = 8
    limits: tuple[float, float] | None = None
    most: float | None = None
    stacked: bool = False
    exemplars: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dashboard:
    """A page.

    Attributes:
        uid: constant name in URLs, and the file's.
        title: for people.
        description: what it is for.
        rows: its contents.
    """

    uid: str
    title: str
    description: str
    rows: Sequence[Row]

    @property
    def panels(self) -> list[Panel]:
        """Of all rows."""
        return [panel for row in self.rows for panel in row.panels]

    def to_json(self) -> str:
        """The file that Grafana reads."""
        return json.dumps(_dashboard(self), indent=1, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row in dashboard.rows:
        box = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row.title, "gridPos": box}
            | {"collapsed": False, "panels": []}
        )
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y, height = 0, y + height, 0
            own_height = 5 if panel.kind == "stat" else 8
            height = max(height, own_height)
            box = {"x": x, "y": y, "w": panel.width, "h": own_height}
            panels.append(_panel(panel, len(panels) + 1, box))
            x += panel.width
        y += height
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["flowmo"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [_LINKS],
        "templating": {"list": [_datasource_variable(), _job_variable()]},
        "annotations": {"list": []},
        "panels": panels,
    }


_LINKS = {
    "type": "dashboards",
    "tags": ["flowmo"],
    "title": "FlowMo",
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
}


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}


def _job_variable() -> dict[str, Any]:
    query = 'label_values({__name__=~"(ray_)?flowmo_build_info"}, job)'
    return {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": query,
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, number: int, box: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limits is not None:
        yellow, red = panel.limits
        steps += [{"color": "yellow", "value": yellow}, {"color": "red", "value": red}]
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 5,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "line" if panel.limits else "off"},
        }
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    else:
        options = {"calculate": False, "yAxis": {"unit": panel.unit}, "cellGap": 1}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": box,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
                **({"exemplar": True} if panel.exemplars else {}),
            }
            for index, query in enumerate(panel.queries)
        ],
    }
