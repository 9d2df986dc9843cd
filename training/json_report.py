"""Reports as JSON files, of training and of benchmarks."""

import json
from pathlib import Path
from typing import Any

from flowmo.model.files import write_file


def rounded(value: Any) -> Any:
    """Six significant digits: more than a measurement has, and short lines."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, report: Any) -> None:
    """Write a report, its numbers rounded, whole or not at all; its folder is made."""
    text = json.dumps(rounded(report), indent=2) + "\n"
    write_file(path, text.encode())
