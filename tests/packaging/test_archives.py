"""What the wheel and the source distribution hold: real files of one package, each once."""

import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

from tests.packaging.conftest import Built
from tests.packaging.environments import ROOT

# Folders at the root, and where the wheel has them.
LINKED = {
    "checkpoints": "flowmo/checkpoints",
    "deploy/runtime": "flowmo/deploy",
    "model": "flowmo/model",
    "service": "flowmo/service",
    "training": "flowmo/training",
}


@pytest.fixture(scope="module")
def names(built: Built) -> list[str]:
    with zipfile.ZipFile(built.wheel) as archive:
        return archive.namelist()


def test_the_only_installed_name_is_flowmo(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert "flowmo" in tops
    (metadata,) = tops - {"flowmo"}
    assert metadata.endswith(".dist-info")


def test_the_wheel_has_every_file_of_the_packages_once(names: list[str]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "flowmo", *LINKED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = set()
    for path in tracked.stdout.splitlines():
        if (ROOT / path).is_symlink() or not (ROOT / path).exists():
            continue
        folder = next((folder for folder in LINKED if path.startswith(f"{folder}/")), None)
        expected.add(path if folder is None else LINKED[folder] + path.removeprefix(folder))
    shipped = {f"flowmo/checkpoints/{name}/model.safetensors" for name in ("tiny", "prior-tiny")}
    assert {"flowmo/py.typed", *shipped} <= expected
    assert "flowmo/photographs/chelsea.png" in expected
    assert Counter(name for name in names if name in expected) == Counter(expected)


def test_the_wheel_has_nothing_for_operators_and_developers(names: list[str]) -> None:
    suffixes = {PurePosixPath(name).suffix for name in names if name.startswith("flowmo/")}
    assert not suffixes & {".yml", ".yaml", ".sh", ".pyc"}
    parts = {part for name in names for part in PurePosixPath(name).parent.parts}
    assert not parts & {"benchmarks", "grafana", "k8s", "prometheus", "ray", "tests", "tools"}


def test_a_wheel_from_the_source_distribution_is_the_same(built: Built) -> None:
    assert _contents(built.wheel) == _contents(built.tree_wheel)


def _contents(wheel: Path) -> dict[str, tuple[int, int]]:
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: (entry.file_size, entry.CRC) for entry in archive.infolist()}


def test_the_source_distribution_has_real_files_each_once(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() for member in members)
    (root,) = {member.name.partition("/")[0] for member in members}
    paths = [member.name.removeprefix(f"{root}/") for member in members]
    assert len(set(paths)) == len(paths)
    # The linked folders are there as parts of flowmo, and not a second time under their own names.
    folders = {path.partition("/")[0] for path in paths if "/" in path}
    assert folders == {"docs", "flowmo"}
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= set(paths)
