"""Reports as JSON files."""

import json
from pathlib import Path
from typing import Any


def rounded(value: Any) -> Any:
    """Six significant digits: more than a measurement has, and short lines."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, report: Any) -> None:
    """Write a report, rounded; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(report), indent=2) + "\n", encoding="utf-8")
