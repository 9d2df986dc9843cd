"""Mixed requests for a long time; is what the service holds still flat?

    python -m benchmarks.chaos.soak --minutes 30 --out benchmarks/results/chaos/soak
    python -m benchmarks.chaos.soak --minutes 30 --workers 2 --out …
    python -m benchmarks.chaos.soak --minutes 30 --ray --kill-every 120 --out …      # with kills

Clients send all kinds of requests in turn, bad ones and some that they walk away from among them.
Every few seconds memory, descriptors, threads, processes and the number of metric series are read.
A quantity is flat when the line through the second half of its readings (Theil and Sen's: the
median of all slopes) rises by less over that half than a share of the median, or an absolute
allowance if that is more. At the end the log is read: every line is JSON, and every answer has its
access line. Writes OUT.json and OUT.png; the exit status is 1 if something is not flat, an answer
was not what its request should get, or the log lacks something.
"""

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.chaos.access_lines import AccessLines, access_lines
from benchmarks.chaos.mixed_load import Mix
from benchmarks.chaos.soak_forms import Reading, Soaked, on_ray, on_this_machine
from benchmarks.environment import environment
from flowmo.training.json_report import write_json

_SHARE = 0.05
# By quantity: what it may rise by in any case. A descriptor is a socket that is open right now.
_ALLOWED = {"resident_bytes": 4 << 20, "descriptors": 8, "threads": 4, "processes": 4, "series": 0}
# The lines of the last answers are written a moment after them.
_LOG_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Soak:
    """What came of one.

    Attributes:
        at: Times of the readings, in seconds.
        readings: What the service held.
        ends: Requests by how they ended.
        kills: Replicas that were killed, by deployment.
        lines: What the log says of the requests.
    """

    at: list[float]
    readings: list[Reading]
    ends: Counter[str]
    kills: Counter[str]
    lines: AccessLines


@dataclass(frozen=True, kw_only=True, slots=True)
class Flatness:
    """Of one quantity over the second half; ``rise`` and ``allowed`` are in its unit."""

    quantity: str
    median: float
    rise: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it rises by no more than it may."""
        return self.rise <= self.allowed


def flatness(quantity: str, at: Sequence[float], values: Sequence[float]) -> Flatness:
    """Judge a quantity.

    Args:
        quantity: its name.
        at: times of the readings, in seconds, rising.
        values: the readings.
    """
    half = len(at) // 2
    times, late = np.asarray(at[half:]), np.asarray(values[half:], dtype=float)
    median = float(np.median(late))
    pairs = np.triu_indices(len(times), 1)
    slopes = (late[pairs[1]] - late[pairs[0]]) / (times[pairs[1]] - times[pairs[0]])
    rise = float(np.median(slopes)) * float(times[-1] - times[0]) if len(slopes) else 0.0
    allowed = max(
        _ALLOWED.get(quantity.partition(" of ")[0], 0),
        _SHARE * median if quantity != "series" else 0,
    )
    return Flatness(quantity=quantity, median=median, rise=rise, allowed=allowed)


def soak(
    form: AbstractContextManager[Soaked],
    *,
    seconds: float,
    interval: float,
    clients: int,
    pause: float = 0.0,
    retry: bool = False,
) -> Soak:
    """Run it.

    Args:
        form: What is soaked.
        seconds: how long.
        interval: between readings.
        clients: that send requests at the same time.
        pause: seconds between the requests of each.
        retry: Whether what breaks is asked for again: something is killed.
    """
    ends: Counter[str] = Counter()
    at: list[float] = []
    readings: list[Reading] = []
    with form as service:
        mix = Mix(service.url, pause=pause)
        done = threading.Event()
        own = [Counter[str]() for _ in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            sending = [
                pool.submit(mix.run, done, number, own[number], retry=retry)
                for number in range(clients)
            ]
            begin = time.monotonic()
            while time.monotonic() - begin < seconds:
                time.sleep(interval)
                readings.append(service.read())
                at.append(time.monotonic() - begin)
            done.set()
            for future in sending:
                future.result()
        time.sleep(_LOG_SECONDS)
        lines = access_lines(service.log, mix.requests.statuses)
    for counted in own:
        ends.update(counted)
    return Soak(at=at, readings=readings, ends=ends, kills=service.kills, lines=lines)


def judge(at: Sequence[float], readings: Sequence[Mapping[str, float]]) -> list[Flatness]:
    """Every quantity of the readings; what a reading lacks it has none of."""
    names = dict.fromkeys(itertools.chain.from_iterable(readings))
    return [flatness(name, at, [reading.get(name, 0.0) for reading in readings]) for name in names]


def _draw(path: Path, at: Sequence[float], readings: Sequence[Reading]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in readings[0] if " of " not in name]
    figure, axes = plt.subplots(len(names), 1, figsize=(7, 1.6 * len(names)), sharex=True)
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        scale, unit = (2**20, " (MiB)") if name == "resident_bytes" else (1, "")
        axis.plot(np.asarray(at) / 60, [reading[name] / scale for reading in readings])
        axis.set_ylabel(name.replace("_bytes", "") + unit, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[-1].set_xlabel("minutes")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.soak")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between readings")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between requests")
    parser.add_argument("--workers", type=int, default=1, help="processes that speak HTTP")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of its own")
    parser.add_argument("--kill-every", type=float, help="seconds between kills of replicas")
    parser.add_argument("--out", type=Path, help="path of the report, no suffix")
    options = parser.parse_args(arguments)
    if options.kill_every is not None and not options.ray:
        parser.error("--kill-every needs --ray: one process has no other to take over")
    if options.minutes * 60 < 8 * options.interval:
        parser.error("--minutes must have room for eight readings, or none could be flat")
    if options.workers > 1 and options.ray:
        parser.error("--workers is a form of its own; on Ray there are two gateways")
    begun = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        if options.ray:
            form = on_ray(Path(folder), kill_every=options.kill_every)
        else:
            form = on_this_machine(Path(folder), workers=options.workers)
        run = soak(
            form,
            seconds=options.minutes * 60,
            interval=options.interval,
            clients=options.clients,
            pause=options.pause,
            retry=options.kill_every is not None,
        )
    judged = judge(run.at, run.readings)
    bad = [end for end in run.ends if end.startswith("UNEXPECTED")]
    for one in judged:
        print(
            f"{one.quantity:16}{one.median:16.0f}   rise {one.rise:12.1f}, allowed "
            f"{one.allowed:12.1f}   {'flat' if one.flat else 'NOT FLAT'}"
        )
    for end, count in sorted(run.ends.items()):
        print(f"{count:8} {end}")
    if options.out is not None:
        settings = {
            name: getattr(options, name)
            for name in ("minutes", "interval", "clients", "pause", "workers", "ray", "kill_every")
        }
        report = {
            "settings": settings,
            "requests": sum(run.ends.values()),
            "ends": dict(sorted(run.ends.items())),
            "kills": dict(run.kills),
            "access_lines": asdict(run.lines),
            "load_average": [begun, os.getloadavg()],
            "flatness": [asdict(one) | {"flat": one.flat} for one in judged],
            "at": [round(time, 1) for time in run.at],
            "readings": run.readings,
        }
        write_json(options.out.with_suffix(".json"), report | {"environment": environment()})
        _draw(options.out.with_suffix(".png"), run.at, run.readings)
    print(run.lines)
    # Each client has one request inside; of two gateways one is killed.
    logged = run.lines.complete(may_miss=run.kills["gateway"] * options.clients)
    return 0 if all(one.flat for one in judged) and logged and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
