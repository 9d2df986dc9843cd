import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Environment, run


@dataclass(frozen=True, slots=True)
class Built:
    """What a release would publish, and a wheel as ``pip install .`` in a clone makes it."""

    sdist: Path
    wheel: Path  # built from the unpacked sdist
    tree_wheel: Path


def _build(target: str, source: Path, out: Path) -> Path:
    # hatchling alone, which is what pip calls in the end: no isolation, so nothing is downloaded.
    run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out], cwd=source)
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    sdist = _build("sdist", ROOT, folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return Built(
        sdist=sdist,
        wheel=_build("wheel", unpacked, folder / "wheel"),
        tree_wheel=_build("wheel", ROOT, folder / "tree-wheel"),
    )


@pytest.fixture(scope="session")
def core() -> list[str]:
    """The requirements of an install without extras."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements: list[str] = table["project"]["dependencies"]
    return requirements


@pytest.fixture(scope="session")
def environment(
    built: Built, core: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    return Environment(tmp_path_factory.mktemp("fresh") / "environment", built.wheel, core)
