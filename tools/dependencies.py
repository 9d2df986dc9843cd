"""The requirements of some extras, one a line, for a layer of an image without the project itself.

    python dependencies.py pyproject.toml serve,train

The layer changes when a dependency does, and not with every line of ours: an update then moves
megabytes, not gigabytes. Standard library only, since it runs before anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Those of the project and of extras, with extras that name other extras followed.

    Args:
        project: the table ``project`` of pyproject.toml.
        extras: names.

    Raises:
        ValueError: no such extra; the message lists those there are.
    """
    own = re.compile(rf"{re.escape(project['name'])}\[(?P<extras>[^\]]*)\]")
    optional: dict[str, list[str]] = project["optional-dependencies"]
    found = dict.fromkeys(project["dependencies"])
    seen: set[str] = set()
    waiting = list(extras)
    while waiting:
        extra = waiting.pop(0)
        if extra in seen:
            continue
        seen.add(extra)
        if extra not in optional:
            raise ValueError(f"no extra {extra!r}; there are {', '.join(sorted(optional))}")
        for requirement in optional[extra]:
            if match := own.fullmatch(requirement):
                waiting += [name.strip() for name in match["extras"].split(",")]
            else:
                found[requirement] = None
    return list(found)


if __name__ == "__main__":
    with Path(sys.argv[1]).open("rb") as file:
        table = tomllib.load(file)["project"]
    print("\n".join(requirements(table, [name for name in sys.argv[2].split(",") if name])))
