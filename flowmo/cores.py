"""Processor cores that this process may use: those it may run on, and a container's quota of them.

A pod that is limited to 4 CPUs still sees every core of its node. With a thread for each of them it
would use up its quota at the beginning of every period, and stand still for the rest of it.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The number of cores that this process may use, at least 1.

    The cores of its CPU affinity, and no more than the CPU quota of its control group or of one
    around it (version 1 or 2, rounded up), where there is one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # not on this system
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(_CGROUPS, _OWN))]))


def _quotas(root: Path, own: Path) -> Iterator[float]:
    """The quotas, in cores, that control groups set for this process.

    Args:
        root: Where the control groups are mounted.
        own: The file that names the process's groups, a line a hierarchy.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the group's own folder is mounted at the root, whatever its name outside.
        inside = PurePosixPath(group.removeprefix("/"))
        for folder in dict.fromkeys([inside, *inside.parents, PurePosixPath()]):
            quota = _second(root / folder) if not controllers else _first(root / "cpu" / folder)
            if quota is not None:
                yield quota


def _second(folder: Path) -> float | None:
    """A group's quota by version 2: microseconds a period, or ``max``."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _first(folder: Path) -> float | None:
    """A group's quota by version 1, which says -1 where there is none."""
    try:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8"))
            for name in ("quota", "period")
        )
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
