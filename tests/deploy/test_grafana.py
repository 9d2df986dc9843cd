"""The dashboards' files: made by the code that is there, whole, and as Grafana wants them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.grafana.__main__ import DASHBOARDS, FOLDER, write
from tools.grafana.panels import Dashboard

ROOT = FOLDER.parent
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)


def test_the_files_are_what_the_code_makes(tmp_path: Path) -> None:
    write(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in FOLDER.iterdir()}, (
        "write them again: python -m tools.grafana"
    )


@every_dashboard
def test_panels_say_what_they_show(dashboard: Dashboard) -> None:
    page: dict[str, Any] = json.loads(dashboard.to_json())
    panels = page["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(set(numbers)) == len(numbers)
    titles = [panel["title"] for panel in panels if panel["type"] != "row"]
    assert len(set(titles)) == len(titles)
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            # A fixed window shows nothing where Prometheus scrapes more seldom.
            assert set(re.findall(r"\[(.*?)\]", target["expr"])) <= {"$__rate_interval"}


@every_dashboard
def test_legends_name_labels_that_sums_keep(dashboard: Dashboard) -> None:
    for panel in dashboard.panels:
        for query in panel.queries:
            shown = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
            for kept in re.findall(r"by \(([^)]*)\)", query.expression):
                assert shown <= set(kept.split(", ")), f"{panel.title}: {query.expression}"


@every_dashboard
def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard.to_json())["panels"]:
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24
        cells = {
            (x, y)
            for x in range(box["x"], box["x"] + box["w"])
            for y in range(box["y"], box["y"] + box["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_provisioning_names_a_source_and_a_folder() -> None:
    (source,) = yaml.safe_load((ROOT / "provisioning/datasources/flowmo.yaml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((ROOT / "provisioning/dashboards/flowmo.yaml").read_text())[
        "providers"
    ]
    assert provider["type"] == "file"
    assert provider["options"]["path"]


def test_a_title_means_one_panel() -> None:
    titles = [panel.title for dashboard in DASHBOARDS for panel in dashboard.panels]
    assert len(set(titles)) == len(titles)
