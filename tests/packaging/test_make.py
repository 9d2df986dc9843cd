"""What each target of the Makefile installs, as make itself would run it."""

import subprocess

import pytest

from tests.packaging.environments import ROOT


def _commands(target: str) -> list[str]:
    """What make would run where nothing has been made yet."""
    dry = ["make", "--dry-run", "--always-make", target]
    printed = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return printed.splitlines()


def _installs(target: str) -> list[str]:
    return [line.split()[-1].strip("'") for line in _commands(target) if "pip install" in line]


@pytest.mark.parametrize("target", ["demo", "serve"])
def test_what_serves_needs_the_core_alone(target: str) -> None:
    assert _installs(target) == ["."]


@pytest.mark.parametrize("target", ["test", "check", "bench", "image-test"])
def test_what_checks_fills_the_same_environment_up(target: str) -> None:
    assert _installs(target) == [".[dev]"]


def test_everything_is_installed_in_the_tested_versions() -> None:
    installs = [line for line in _commands("test") if "pip install" in line]
    assert all("-c constraints.txt" in line for line in installs)
