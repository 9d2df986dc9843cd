"""Writes the dashboards: ``python -m tools.grafana``."""

from pathlib import Path

from tools.grafana.engines import ENGINES
from tools.grafana.overview import OVERVIEW
from tools.grafana.replicas import REPLICAS
from tools.grafana.slo import SLO

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
DASHBOARDS = (OVERVIEW, ENGINES, REPLICAS, SLO)


def write(folder: Path) -> None:
    """Write every dashboard as ``UID.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        path = folder / f"{dashboard.uid}.json"
        path.write_text(dashboard.to_json(), encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
