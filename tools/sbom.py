"""What an image holds of Python, as CycloneDX 1.6 (JSON): the lock's packages that its extras take.

    python -m tools.sbom serve,train,export --out sbom.json

Versions are those of constraints.txt. Markers are judged for Linux on x86-64 and Python 3.12, which
is what the image is. What the operating system has is the business of the base image's own list.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flowmo import __version__
from tools.dependencies import requirements

ROOT = Path(__file__).parents[1]
_IMAGE = {
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "sys_platform": "linux",
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "extra": "",
}


def _environment() -> dict[str, str]:
    """What markers are judged by."""
    return {name: str(value) for name, value in default_environment().items()} | _IMAGE


def locked(text: str) -> dict[str, str]:
    """The version of each package of a lock, by its canonical name, for the image's Python.

    Args:
        text: Lines of ``name==version ; marker``.
    """
    environment = _environment()
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = pin.version
    return found


def bill(wanted: list[str], versions: dict[str, str]) -> dict[str, Any]:
    """The document: the project, and what it directly asks for.

    Args:
        wanted: Requirements.
        versions: The lock.

    Raises:
        ValueError: A requirement is not in the lock.
    """
    names = sorted({canonicalize_name(re.split(r"[\[<>=;! ]", one)[0]) for one in wanted})
    if missing := [name for name in names if name not in versions]:
        raise ValueError(f"constraints.txt has no {', '.join(missing)}; lock again")
    own = f"pkg:pypi/flowmo-serve@{__version__}"
    parts = {name: _component(name, versions[name]) for name in _with_theirs(names, versions)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "flowmo-serve",
                "version": __version__,
                "bom-ref": own,
                "purl": own,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [parts[name] for name in sorted(parts)],
        "dependencies": [{"ref": own, "dependsOn": [parts[name]["bom-ref"] for name in names]}],
    }


def _with_theirs(names: Sequence[str], versions: dict[str, str]) -> set[str]:
    """Packages and those that they need, as far as these are installed here; they are locked."""
    environment = _environment()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen or name not in versions:
            continue
        seen.add(name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in needed:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                waiting.append(canonicalize_name(requirement.name))
    return seen


def _component(name: str, version: str) -> dict[str, str]:
    purl = f"pkg:pypi/{name}@{version}"
    return {"type": "library", "name": name, "version": version, "bom-ref": purl, "purl": purl}


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.sbom")
    parser.add_argument("extras", help="as EXTRAS of the Dockerfile")
    parser.add_argument("--out", type=Path, help="the file; standard output by default")
    options = parser.parse_args()
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = requirements(project, [name for name in options.extras.split(",") if name])
    lock = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    text = json.dumps(bill(wanted, locked(lock)), indent=2) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
