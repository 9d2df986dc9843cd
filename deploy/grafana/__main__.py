"""Writes the dashboards: ``python -m deploy.grafana``."""

from pathlib import Path

from deploy.grafana.engines import ENGINES
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.replicas import REPLICAS
from deploy.grafana.slo import SLO

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = (OVERVIEW, ENGINES, REPLICAS, SLO)


def write(folder: Path) -> None:
    """Write every dashboard as ``UID.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        path = folder / f"{dashboard.uid}.json"
        path.write_text(dashboard.to_json(), encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
