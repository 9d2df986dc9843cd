"""The project's own promises: import rules that cover every package, a version for everything."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.sharing import ON_RAY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """Canonical name -> pinned version; every line of constraints.txt is `name==version`."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


def test_every_package_is_under_the_import_rules(project: dict[str, Any]) -> None:
    packages = {init.parent.name for init in ROOT.glob("*/__init__.py")}
    linked = {link.resolve().relative_to(ROOT).parts[0] for link in _links()}
    assert set(project["tool"]["importlinter"]["root_packages"]) == packages - linked - {"tests"}


def test_only_flowmo_is_installed(project: dict[str, Any]) -> None:
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["flowmo"]


def test_links_are_relative_and_lead_to_folders_of_the_repository() -> None:
    assert {link.name for link in _links()} == {
        "checkpoints",
        "deploy",
        "model",
        "service",
        "training",
    }
    for link in _links():
        assert not link.readlink().is_absolute()
        assert link.resolve().is_relative_to(ROOT)
        assert link.is_dir()


def test_files_on_ray_are_run_by_one_process() -> None:
    starts_clusters = re.compile(
        r"--ray-(config|workers)|benchmarks\.chaos\.__main__|cluster\.refusing"
    )
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if path != Path(__file__) and starts_clusters.search(path.read_text(encoding="utf-8"))
    }
    assert files == ON_RAY


def _links() -> list[Path]:
    return [path for path in (ROOT / "flowmo").iterdir() if path.is_symlink()]


def test_every_dependency_is_pinned_within_its_bounds(
    project: dict[str, Any], pins: dict[str, str]
) -> None:
    extras = project["project"]["optional-dependencies"]
    asked = [
        *project["project"]["dependencies"],
        *(line for some in extras.values() for line in some),
    ]
    for requirement in map(Requirement, asked):
        if requirement.name == project["project"]["name"]:
            continue
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} is pinned to {pin}"


def test_constraints_name_no_place(pins: dict[str, str]) -> None:
    # A lock made on somebody's machine must install on everybody's.
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--" not in text
    assert "+" not in "".join(pins.values())


def test_benchmarks_hide_no_import_of_the_service_in_a_text() -> None:
    """import-linter reads statements; a program in a string would pass it by."""
    # They run the service's own engine or protocol in this process.
    serving = ROOT / "benchmarks" / "serving"
    names = ("emulated", "host_overhead", "instant", "roofline", "stalls", "starvation")
    engines = {serving / f"{name}.py" for name in (*names, "workers_call")}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        if path not in engines:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(from|import)\s+flowmo\.service|flowmo\.service\S*:", text), path
