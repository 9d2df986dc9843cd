"""Which descriptors a cluster on Ray keeps when replicas die: of which process, of which kind.

    python -m benchmarks.chaos.descriptors --kills 12 --out OUT.json

Descriptors of every process of the cluster are read from /proc before anything is killed and after
each kill, when a new replica stands in the dead one's place and some seconds of requests have gone
by. Of each process that was there from the beginning to the end the kinds that rose are told.

Ray's log monitor keeps the files of dead workers until it has as many open as it may (200); then it
closes all and opens again those that grow. ``--open-files 40`` shows that within some kills.
"""

import argparse
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.chaos.application import MODEL, picture, running
from benchmarks.chaos.checked_load import load, reconstructing
from benchmarks.chaos.processes import kill_one, replicas, titles
from benchmarks.environment import environment
from flowmo.training.json_report import write_json

_VICTIMS = (f"decoder-{MODEL}", f"encoder-{MODEL}", "gateway")
_LIMIT_SECONDS = 180.0
# By process id: how many descriptors of each kind it has.
Reading = dict[int, Counter[str]]


def role_of(title: str) -> str:
    """What a process of the cluster is, from its command line."""
    words = title.replace("\0", " ").strip()
    if found := re.search(r"ray::(\S+)", words):
        # An actor's title names what it does just now, and a new replica's its id.
        name = found[1].partition(".")[0]
        return name[name.find("ServeReplica:") :] if "ServeReplica:" in name else name
    for name in ("raylet", "gcs_server", "dashboard_agent", "runtime_env_agent", "log_monitor"):
        if f"/{name}" in words or f"/{name}.py" in words:
            return name
    if "dashboard" in words:
        return "dashboard"
    return "flowmo serve" if "flowmo" in words else Path(words.split(" ")[0]).name


def kinds_of(pid: int, sockets: Mapping[str, str]) -> Counter[str]:
    """The kinds of a process' descriptors: files by their folder, sockets by family and state."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found[_kind(str(entry.readlink()), sockets)] += 1
    return found


def _kind(target: str, sockets: Mapping[str, str]) -> str:
    if found := re.fullmatch(r"socket:\[(\d+)\]", target):
        return f"socket, {sockets.get(found[1], 'of no table')}"
    if target.startswith("/"):
        # Names have process ids and random numbers in them.
        path = Path(target.removesuffix(" (deleted)"))
        name = re.sub(r"[0-9a-f]{8,}|\d+", "#", path.name)
        return f"file {name}{' (deleted)' if target.endswith(' (deleted)') else ''}"
    return re.sub(r":\[\d+\]", "", target)


def open_sockets(pid: int) -> dict[str, str]:
    """What the sockets of this network are, by their inodes."""
    found: dict[str, str] = {}
    states = {"01": "connected", "06": "time-wait", "08": "close-wait", "0A": "listening"}
    for family in ("tcp", "tcp6", "unix"):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
                words = line.split()
                if family == "unix":
                    found[words[6]] = "unix"
                else:
                    found[words[9]] = f"TCP {states.get(words[3], words[3])}"
    return found


def read(ancestor: int) -> Reading:
    """The descriptors of a process and all that come from it."""
    sockets = open_sockets(ancestor)
    found: Reading = {}
    for pid, _ in titles(ancestor):
        with suppress(OSError):  # it has ended
            found[pid] = kinds_of(pid, sockets)
    return found


def rises(readings: Sequence[Reading], roles: Mapping[int, str]) -> list[dict[str, Any]]:
    """What rose from the first reading to the last, of processes that are in both."""
    first, last = readings[0], readings[-1]
    found: list[dict[str, Any]] = []
    for pid in sorted(first.keys() & last.keys()):
        more = {
            kind: last[pid][kind] - first[pid][kind]
            for kind in last[pid] | first[pid]
            if last[pid][kind] != first[pid][kind]
        }
        if more:
            row = {"process": roles.get(pid, "?"), "before": first[pid].total()}
            found.append(row | {"after": last[pid].total(), "kinds": more})
    return sorted(found, key=lambda row: row["before"] - row["after"])


def measure(folder: Path, *, kills: int, rest: float) -> dict[str, Any]:
    """Kill replicas in turn, under two clients' load.

    Args:
        folder: For files.
        kills: How many replicas are killed.
        rest: Seconds of load before each reading.

    Raises:
        TimeoutError: A replica was not replaced.
    """
    upload = picture()
    readings: list[Reading] = []
    roles: dict[int, str] = {}
    with running(folder) as application:
        ancestor = application.pid
        with load(application.url, reconstructing(upload), range(4), clients=2):
            for victim in (None, *islice(cycle(_VICTIMS), kills)):
                if victim is not None:
                    dead = kill_one(victim, ancestor)
                    begin = time.monotonic()
                    while len(set(replicas(victim, ancestor)) - {dead}) < 2:
                        if time.monotonic() - begin > _LIMIT_SECONDS:
                            raise TimeoutError(f"{victim} was not replaced in three minutes")
                        time.sleep(0.2)
                time.sleep(rest)
                readings.append(read(ancestor))
                roles |= {pid: role_of(title) for pid, title in titles(ancestor)}
                print(victim, sum(kinds.total() for kinds in readings[-1].values()), flush=True)
        # Without load: what is only in use now is gone.
        time.sleep(rest)
        idle = read(ancestor)
    return {
        "kills": kills,
        "descriptors": [sum(kinds.total() for kinds in reading.values()) for reading in readings],
        "by process": [
            Counter({roles.get(pid, "?"): kinds.total() for pid, kinds in reading.items()})
            for reading in (readings[0], readings[-1])
        ],
        "descriptors of the log monitor": [
            sum(kinds.total() for pid, kinds in reading.items() if roles.get(pid) == "log_monitor")
            for reading in readings
        ],
        "rises": rises(readings, roles),
        "rises, second half": rises(readings[len(readings) // 2 :], roles),
        "rises, idle at the end": rises([readings[0], idle], roles),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print what rose, write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.descriptors")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--rest", type=float, default=6.0, help="seconds before each reading")
    parser.add_argument("--open-files", type=int, help="that the log monitor may have; Ray's 200")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.open_files is not None:
        os.environ["RAY_LOG_MONITOR_MAX_OPEN_FILES"] = str(options.open_files)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), kills=options.kills, rest=options.rest)
    for row in report["rises"]:
        print(row)
    if options.out is not None:
        report |= {"open_files": options.open_files, "environment": environment()}
        write_json(options.out, report)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several replicas share the cores
    main()
