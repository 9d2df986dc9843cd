"""Cores that a process may use, with control groups like those of a container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowmo import cores

MANY = 64


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of which none has a quota, on a machine of 64 cores."""
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr(cores, "_CGROUPS", root)
    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)))
    (tmp_path / "own").write_text("0::/\n")
    return root


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("400000 100000", 4), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", MANY)],
)
def test_a_containers_quota_counts(groups: Path, quota: str, expected: int) -> None:
    (groups / "cpu.max").write_text(f"{quota}\n")
    assert cores.usable_cores() == expected


def test_the_smallest_quota_of_a_group_and_those_around_it_counts(groups: Path) -> None:
    (groups.parent / "own").write_text("0::/pod/container\n")
    (groups / "pod" / "container").mkdir(parents=True)
    (groups / "pod" / "cpu.max").write_text("300000 100000\n")
    (groups / "pod" / "container" / "cpu.max").write_text("800000 100000\n")
    assert cores.usable_cores() == 3


def test_version_1_says_it_in_two_files(groups: Path) -> None:
    (groups.parent / "own").write_text("9:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/\n")
    (groups / "cpu").mkdir()
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.usable_cores() == 2
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores.usable_cores() == MANY


def test_without_control_groups_the_affinity_counts(groups: Path) -> None:
    (groups.parent / "own").unlink()
    assert cores.usable_cores() == MANY


def test_the_cores_of_this_process() -> None:
    command = "from flowmo.cores import usable_cores; print(usable_cores())"
    one = min(os.sched_getaffinity(0))
    printed = subprocess.run(
        ["taskset", "-c", str(one), sys.executable, "-c", command],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed == "1\n"
