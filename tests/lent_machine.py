"""What can be imported on a machine with a GPU that is lent for an hour, and nothing else.

Run as a program it is Python there: ``python tests/lent_machine.py -m pytest ...`` (or ``-c``).
"""

import re
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from types import ModuleType

# What such a machine has, by the names of the package index; and what these depend on.
PACKAGES = (
    "torch",
    "torchvision",
    "torchmetrics",
    "timm",
    # What timm needs, which is not installed here itself.
    "huggingface_hub",
    "pyyaml",
    "safetensors",
    "onnx",
    "onnxruntime",
    "prometheus-client",
    "uvloop",
    # Seen there, too; training writes its progress with it.
    "rich",
    "pytest",
)


def normal(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(packages: Sequence[str]) -> set[str]:
    """The packages, and all that they depend on without extras, by normal names."""
    found: set[str] = set()
    waiting = [normal(name) for name in packages]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # another platform's
            continue
        for requirement in requirements:
            if "extra ==" not in requirement:
                match = re.match(r"[A-Za-z0-9._-]+", requirement)
                assert match is not None
                waiting.append(normal(match[0]))
    return found


class OnlyThese(MetaPathFinder):
    """Finds no module, and refuses those of other packages."""

    def __init__(self, packages: set[str]) -> None:
        owners = packages_distributions()
        self._refused = {
            module
            for module, names in owners.items()
            if not any(normal(name) in packages for name in names)
        }
        # The project itself is there as its working tree; some packages also have a "tests".
        self._refused -= {path.name for path in Path(__file__).resolve().parents[1].iterdir()}

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        """Raise where the machine would."""
        if name.partition(".")[0] in self._refused:
            raise ModuleNotFoundError(f"No module named {name!r} (on a lent machine)", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, OnlyThese(installed_with(PACKAGES)))
    del sys.argv[0]  # this program
    if sys.argv[0] == "-c":
        exec(sys.argv[1])
    elif sys.argv[0] == "-m":
        module = sys.argv[1]
        del sys.argv[0]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
