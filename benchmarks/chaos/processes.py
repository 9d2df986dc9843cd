"""Processes of a Ray cluster that a process of ours has started, by /proc; never anybody else's."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def titles(ancestor: int) -> Iterator[tuple[int, str]]:
    """Process ids and command lines of all descendants of a process."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
            ours = descends(int(folder.name), ancestor)
        except OSError:
            continue
        if ours:
            yield int(folder.name), title


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process is another one or comes from it.

    Raises:
        OSError: one of them has ended meanwhile.
    """
    while pid > 1:
        if pid == ancestor:
            return True
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        pid = int(status.rpartition(")")[2].split()[1])
    return False


def replicas(deployment: str, ancestor: int) -> list[int]:
    """Process ids of a deployment's replicas on the cluster that a process has started."""
    mark = f"ServeReplica:flowmo:{deployment}"
    return [pid for pid, title in titles(ancestor) if mark in title]


def at_work(deployment: str, ancestor: int) -> list[int]:
    """Of a deployment's replicas those that have begun to serve and are not stopped."""
    mark = f"ServeReplica:flowmo:{deployment}"
    return [
        pid
        for pid, title in titles(ancestor)
        if mark in title and "init" not in title.partition(mark)[2] and not stopped(pid)
    ]


def stopped(pid: int) -> bool:
    """Whether a process has got SIGSTOP, and is there still."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "T"


def controller(ancestor: int) -> list[int]:
    """Process id of Serve's controller."""
    return [pid for pid, title in titles(ancestor) if "ServeController" in title]


def kill_one(deployment: str, ancestor: int) -> int:
    """SIGKILL a replica; its process id."""
    pid = replicas(deployment, ancestor)[0]
    os.kill(pid, signal.SIGKILL)
    return pid


def resident_bytes(pids: list[int]) -> int:
    """Memory that processes have resident, shared pages counted for each."""
    pages = 0
    for pid in pids:
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def resources(pid: int) -> dict[str, int]:
    """What a process holds: resident bytes, open descriptors, threads."""
    return {
        "resident_bytes": resident_bytes([pid]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
    }
