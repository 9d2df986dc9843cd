"""Rules, alerts and examples, by Prometheus' own tools (apt-packages.txt)."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.prometheus import find_tool
from flowmo.service.telemetry.metrics import REQUEST_BUCKETS
from tools.grafana.__main__ import DASHBOARDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
TESTS = sorted((FOLDER / "tests").glob("*.yml"))


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """``record`` or ``alert`` rules by their name."""
    found = {}
    for path in sorted((FOLDER / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            found.update({rule[kind]: rule for rule in group["rules"] if kind in rule})
    return found


def run(tool: str, *arguments: str) -> str:
    command = [find_tool(tool), *arguments]
    done = subprocess.run(
        command, cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    run("promtool", "test", "rules", str(path))


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    fires: dict[bool, set[str]] = {True: set(), False: set()}
    for path in TESTS:
        for scenario in yaml.safe_load(path.read_text())["tests"]:
            for check in scenario.get("promql_expr_test", ()):
                if match := re.search(r'ALERTS\{alertname="(\w+)"', check["expr"]):
                    fires[bool(check["exp_samples"])].add(match[1])
    assert fires[True] == fires[False] == rules("alert").keys()


def test_prometheus_and_alertmanager_take_the_examples() -> None:
    run("promtool", "check", "config", "prometheus.yml")
    run("amtool", "check-config", "alertmanager.yml")
    for severity, receiver in (("page", "pager"), ("ticket", "tickets")):
        asked = ["--config.file=alertmanager.yml", f"severity={severity}"]
        route = run("amtool", "config", "routes", "test", *asked)
        assert route.strip() == receiver


def test_alerts_say_what_they_must() -> None:
    for name, rule in rules("alert").items():
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_what_rules_use_is_recorded() -> None:
    recorded = rules("record")
    for rule in (*recorded.values(), *rules("alert").values()):
        used = set(re.findall(r"flowmo:\w+:\w+", rule["expr"]))
        assert used <= recorded.keys(), rule


def test_the_latency_objective_is_an_edge_of_the_histogram() -> None:
    (edge,) = re.findall(r'le=~"(\d+)\|', rules("record")["flowmo:detokenized_late:rate5m"]["expr"])
    assert float(edge) in REQUEST_BUCKETS


def test_the_runbook_has_a_section_for_each_alert() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert [name for name in headings if name.startswith("Flowmo")] == list(rules("alert"))
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= anchors


def test_the_runbook_names_panels_that_there_are() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    titles = {panel.title for dashboard in DASHBOARDS for panel in dashboard.panels}
    assert set(re.findall(r'"([A-Z][^"]+)"', text)) <= titles
