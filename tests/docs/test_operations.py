"""Pages for operators say what is so: how each command was tried, and what the alerts count."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules"


def commands(page: str) -> Iterator[str]:
    """The commands of a page's shell blocks, with their marks, without what they read."""
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```", page):
        text = re.sub(r"(?ms)(<<'(\w+)'[^\n]*\n).*?^\2\n", r"\1", block).replace("\\\n", " ")
        yield from (line for line in text.splitlines() if line.strip() and line[0] != "#")


def test_each_command_for_kubernetes_says_how_it_was_tried() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    found = list(commands(page))
    assert len(found) > 25
    unmarked = [one for one in found if not re.search(r"# (run|checked|not tried)\b", one)]
    assert unmarked == []


def rules(name: str, kind: str) -> dict[str, dict[str, Any]]:
    """The rules of a file that are of a kind, by name."""
    groups = yaml.safe_load((RULES / f"{name}.yml").read_text(encoding="utf-8"))["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def test_the_page_of_objectives_is_what_alerts_count() -> None:
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    recorded, alerts = rules("recording", "record"), rules("alerts", "alert")
    for slo, share in re.findall(r"(?m)^\| (\w+) \| ([\d.]+) % in 30 days \|", page):
        assert recorded[f"flowmo:{slo}:objective"]["expr"] == f"vector({float(share) / 100:g})"
        told = {
            (rate, *(window.replace(" ", "") for window in windows.split(" and ")), severity)
            for rate, windows, severity in re.findall(
                r"(?m)^\| ([\d.]+) \| ([\w ]+) \| [^|]+ \| (page|ticket) \|", page
            )
        }
        counted = set()
        for alert in alerts.values():
            if alert["labels"].get("slo") == slo:
                asked = re.findall(r"ratio_rate(\w+) > ([\d.]+) \*", alert["expr"])
                (long, rate), (short, same) = asked
                assert rate == same
                counted.add((rate, long, short.replace("m", "min"), alert["labels"]["severity"]))
        assert told == counted
        assert len(told) == 3
    floor = re.search(r"`flowmo:traffic:floor` \(([\d.]+) requests a second", page)
    assert floor
    assert recorded["flowmo:traffic:floor"]["expr"] == f"vector({floor[1]})"
