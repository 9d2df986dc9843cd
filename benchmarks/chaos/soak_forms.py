"""The forms of the service that are soaked, each with what it holds and where its log is."""

import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.chaos.application import MODEL, running, write_checkpoint
from benchmarks.chaos.descriptors import role_of
from benchmarks.chaos.processes import kill_one, replicas, resources, titles
from flowmo.cli.server_process import ServerProcess

_CACHE_BYTES = 2 << 20
Reading = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Soaked:
    """A service that runs.

    Attributes:
        url: Its address.
        log: The file with its JSON lines.
        read: Reads what it holds: the sum of its processes, and of each kind of them apart.
        kills: Replicas that were killed so far, by deployment.
    """

    url: str
    log: Path
    read: Callable[[], Reading]
    kills: Counter[str]


@contextmanager
def on_this_machine(folder: Path, *, workers: int = 1) -> Iterator[Soaked]:
    """``flowmo serve``, in one process or with HTTP in several.

    Args:
        folder: for files.
        workers: Its ``--workers``.
    """
    checkpoint = write_checkpoint(folder / "checkpoint", seed=0)
    arguments = ["--checkpoint", str(checkpoint), "--threads", "1", "--workers", str(workers)]
    # A cache that is full within a minute: until then it grows, as it should.
    environment = os.environ | {"FLOWMO_CACHE_BYTES": str(_CACHE_BYTES)}
    environment["FLOWMO_LOG_FORMAT"] = "json"
    log = folder / "server.log"
    with ServerProcess(arguments, log=log, environment=environment) as server:

        def read() -> Reading:
            held = _held_by_descendants(server.pid) if workers > 1 else resources(server.pid)
            text = httpx.get(f"{server.url}/metrics", timeout=30, trust_env=False).text
            series = sum(not line.startswith("#") for line in text.splitlines())
            return {**held, "series": series}

        yield Soaked(url=server.url, log=log, read=read, kills=Counter())


@contextmanager
def on_ray(folder: Path, *, kill_every: float | None) -> Iterator[Soaked]:
    """Two replicas of everything on a Ray cluster of this machine's own.

    Args:
        folder: for files.
        kill_every: Seconds between kills of replicas; None kills nothing.
    """
    kills: Counter[str] = Counter()
    with running(folder) as application:
        ends = threading.Event()

        def kill() -> None:
            victims = itertools.cycle((f"decoder-{MODEL}", f"encoder-{MODEL}", "gateway"))
            while kill_every is not None and not ends.wait(kill_every):
                victim = next(victims)
                if len(replicas(victim, application.pid)) == 2:
                    kill_one(victim, application.pid)
                    kills[victim] += 1

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            yield Soaked(
                url=application.url,
                log=application.log,
                read=lambda: _held_by_descendants(application.pid),
                kills=kills,
            )
        finally:
            ends.set()
            killer.join()


def _held_by_descendants(ancestor: int) -> Reading:
    """Of all together, and the memory of each kind: a leak of one would not show in the sum."""
    total: Counter[str] = Counter()
    for pid, title in titles(ancestor):
        with suppress(OSError):  # one that ends meanwhile
            held = resources(pid)
            total.update(held)
            total["processes"] += 1
            total[f"resident_bytes of {role_of(title)}"] += held["resident_bytes"]
    return dict(total)
