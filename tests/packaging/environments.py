"""Environments like a stranger's: the project from a wheel, the core's libraries, nothing else.

Nothing is downloaded. The libraries are links to those of the environment that runs the tests,
chosen by what pyproject.toml and the libraries themselves declare, so that an import of anything
that only an extra brings fails here as it would there.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def link_libraries(requirements: list[str], folder: Path) -> set[str]:
    """Link whatever these requirements install, and whatever that requires, into a folder.

    Args:
        requirements: as pyproject.toml has them, all of them installed here.
        folder: exists; becomes what a ``site-packages`` with only these would be.

    Returns:
        The canonical names of the distributions.

    Raises:
        importlib.metadata.PackageNotFoundError: one of them is not installed.
    """
    names: set[str] = set()
    for found in _closure(requirements):
        names.add(canonicalize_name(found.metadata["Name"]))
        for file in found.files or []:
            top = file.parts[0]
            source = Path(str(found.locate_file(top)))
            # ".." leads to scripts and headers; __pycache__ holds those of modules that are files.
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return names


def _closure(requirements: list[str]) -> Iterator[Distribution]:
    waiting = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        found = distribution(requirement.name)
        yield found
        extras = ["", *requirement.extras]
        for needed in map(Requirement, found.requires or []):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)


class Environment:
    """A virtual environment with the core's libraries and the project installed from a wheel.

    Args:
        folder: to be made.
        wheel: the project's.
        requirements: what the project needs, of those that are installed here.

    Attributes:
        bin: the folder of ``python`` and ``flowmo``.
        site_packages: where the project lies.
        libraries: canonical names of the distributions beside it.
    """

    def __init__(self, folder: Path, wheel: Path, requirements: list[str]) -> None:
        run([sys.executable, "-m", "venv", "--without-pip", folder], cwd=folder.parent)
        self.bin = folder / "bin"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site_packages = folder / "lib" / version / "site-packages"
        self.libraries = link_libraries(requirements, self.site_packages)
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.bin / "python",
            "--isolated",
        ]
        run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], cwd=folder.parent)

    def run(self, *command: str, cwd: Path) -> str:
        """Run ``python`` or ``flowmo`` of this environment in a folder; its standard output."""
        return run([self.bin / command[0], *command[1:]], cwd=cwd)


def stranger_variables() -> dict[str, str]:
    """This process' environment variables without those that make the tree's modules importable."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(command: list[str | Path], *, cwd: Path) -> str:
    """Run a command to its end; its standard output.

    Raises:
        AssertionError: it failed; the message has what it wrote.
    """
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=stranger_variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout
