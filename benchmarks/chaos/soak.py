"""Mixed requests for a long time; is what the service holds still flat?

    python -m benchmarks.chaos.soak --minutes 30 --out benchmarks/results/chaos/soak
    python -m benchmarks.chaos.soak --minutes 30 --ray --kill-every 120 --out …      # with kills

Clients send all kinds of requests in turn, bad ones and some that they walk away from among them.
Every few seconds memory, descriptors, threads, processes and the number of metric series are read.
A quantity is flat when the line through the second half of its readings (Theil and Sen's: the
median of all slopes) rises by less over that half than a share of the median, or an absolute
allowance if that is more. Writes OUT.json and OUT.png; the exit status is 1 if something is not
flat or an answer was not what its request should get.
"""

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks.chaos.application import MODEL, picture, running, write_checkpoint
from benchmarks.chaos.checked_load import RAW
from benchmarks.chaos.processes import kill_one, replicas, resources, titles
from benchmarks.environment import environment
from flowmo.cli.server_process import ServerProcess
from flowmo.training.json_report import write_json

_PACKED = {"Content-Type": "application/vnd.flowmo"}
_SHARE = 0.05
_CACHE_BYTES = 2 << 20
# By quantity: what it may rise by in any case. A descriptor is a socket that is open right now.
_ALLOWED = {"resident_bytes": 4 << 20, "descriptors": 8, "threads": 4, "processes": 4, "series": 0}
Reading = dict[str, float]


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
    allowed = max(_ALLOWED.get(quantity, 0), _SHARE * median if quantity != "series" else 0)
    return Flatness(quantity=quantity, median=median, rise=rise, allowed=allowed)


class Mix:
    """Requests of every kind in turn, each with the statuses that it should get.

    Args:
        url: of the service.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._upload = picture()
        with httpx.Client(base_url=url, timeout=60) as client:
            headers = RAW | {"Accept": _PACKED["Content-Type"]}
            answer = client.post("/v1/tokenize", content=self._upload, headers=headers)
            self._tokens = answer.raise_for_status().content
        self._kinds: dict[str, tuple[Callable[[httpx.Client, int], int], set[int]]] = {
            "reconstruct": (self._reconstruct, {200}),
            "tokenize": (self._tokenize, {200}),
            "detokenize": (self._detokenize, {200}),
            "batch": (self._batch, {200}),
            "stream": (self._stream, {200}),
            "bad image": (self._bad_image, {400, 415, 422}),
            "bad tokens": (self._bad_tokens, {400, 415, 422}),
            "unknown route": (self._unknown, {404}),
            "walks away": (self._walk_away, {0, 200}),
        }

    def run(self, done: threading.Event, number: int, ends: Counter[str], *, retry: bool) -> None:
        """Send requests until asked to stop.

        Args:
            done: ends it.
            number: of the client; the first kind and the seeds.
            ends: counts "kind: status", with "expected" or "UNEXPECTED" before it.
            retry: what breaks or is unavailable (503) is asked for again: something is killed.
        """
        kinds = itertools.cycle(self._kinds.items())
        with httpx.Client(base_url=self._url, timeout=60) as client:
            for turn, (kind, (send, wanted)) in zip(itertools.count(number), kinds, strict=False):
                if done.is_set():
                    return
                status = self._status(send, client, turn)
                for _ in range(4):
                    if not retry or status in wanted or 0 < status < 500:
                        break
                    time.sleep(0.5)
                    status = self._status(send, client, turn)
                end = "expected" if status in wanted else "UNEXPECTED"
                ends[f"{end} {kind}: {status or 'no answer'}"] += 1

    @staticmethod
    def _status(send: Callable[[httpx.Client, int], int], client: httpx.Client, turn: int) -> int:
        try:
            return send(client, turn)
        except httpx.HTTPError:
            return 0

    def _reconstruct(self, client: httpx.Client, turn: int) -> int:
        params = {"seed": turn, "steps": 8}
        return client.post(
            "/v1/reconstruct", content=self._upload, headers=RAW, params=params
        ).status_code

    def _tokenize(self, client: httpx.Client, _: int) -> int:
        return client.post("/v1/tokenize", content=self._upload, headers=RAW).status_code

    def _detokenize(self, client: httpx.Client, turn: int) -> int:
        params = {"seed": turn}
        return client.post(
            "/v1/detokenize", content=self._tokens, headers=_PACKED, params=params
        ).status_code

    def _batch(self, client: httpx.Client, _: int) -> int:
        files = [("item", ("a", self._upload)), ("item", ("b", b"no picture"))]
        return client.post("/v1/reconstruct/batch", files=files).status_code

    def _stream(self, client: httpx.Client, turn: int) -> int:
        params = {"stream": True, "steps": 4, "previews": 1, "seed": turn}
        return client.post(
            "/v1/detokenize", content=self._tokens, headers=_PACKED, params=params
        ).status_code

    def _bad_image(self, client: httpx.Client, turn: int) -> int:
        cut = self._upload[: 20 + turn % 40]
        return client.post("/v1/tokenize", content=cut, headers=RAW).status_code

    def _bad_tokens(self, client: httpx.Client, turn: int) -> int:
        cut = self._tokens[: turn % len(self._tokens)]
        return client.post("/v1/detokenize", content=cut, headers=_PACKED).status_code

    def _unknown(self, client: httpx.Client, turn: int) -> int:
        # A label made of paths would grow a series for each.
        return client.get(f"/v1/nothing/{turn}").status_code

    def _walk_away(self, _: httpx.Client, turn: int) -> int:
        with httpx.Client(base_url=self._url, timeout=0.05) as client:
            params = {"seed": turn, "steps": 200}
            return client.post(
                "/v1/reconstruct", content=self._upload, headers=RAW, params=params
            ).status_code


@contextmanager
def _one_process(folder: Path) -> Iterator[tuple[str, Callable[[], Reading]]]:
    checkpoint = write_checkpoint(folder / "checkpoint", seed=0)
    arguments = ["--checkpoint", str(checkpoint), "--threads", "1"]
    # A cache that is full within a minute: until then it grows, as it should.
    environment = os.environ | {"FLOWMO_CACHE_BYTES": str(_CACHE_BYTES)}
    with ServerProcess(arguments, log=folder / "server.log", environment=environment) as server:

        def read() -> Reading:
            held = resources(server.pid)
            text = httpx.get(f"{server.url}/metrics", timeout=30).text
            held["series"] = sum(not line.startswith("#") for line in text.splitlines())
            return dict(held)

        yield server.url, read


@contextmanager
def _on_ray(
    folder: Path, kill_every: float | None, kills: Counter[str]
) -> Iterator[tuple[str, Callable[[], Reading]]]:
    with running(folder) as application:
        ends = threading.Event()

        def kill() -> None:
            victims = itertools.cycle((f"decoder-{MODEL}", f"encoder-{MODEL}", "gateway"))
            while kill_every is not None and not ends.wait(kill_every):
                victim = next(victims)
                if len(replicas(victim, application.pid)) == 2:
                    kill_one(victim, application.pid)
                    kills[victim] += 1

        def read() -> Reading:
            total: Counter[str] = Counter()
            for pid, _ in titles(application.pid):
                with suppress(OSError):  # one that ends meanwhile
                    total.update(resources(pid))
                    total["processes"] += 1
            return dict(total)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            yield application.url, read
        finally:
            ends.set()
            killer.join()


def soak(
    folder: Path,
    *,
    seconds: float,
    interval: float,
    clients: int,
    ray: bool = False,
    kill_every: float | None = None,
) -> tuple[list[float], list[Reading], Counter[str], Counter[str]]:
    """Run it.

    Args:
        folder: for files.
        seconds: how long.
        interval: between readings.
        clients: that send requests at the same time.
        ray: on a Ray cluster, two replicas of everything.
        kill_every: seconds between kills there; None kills nothing.

    Returns:
        Times and readings, ends of the requests, kills.
    """
    kills: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    at: list[float] = []
    readings: list[Reading] = []
    form = _on_ray(folder, kill_every, kills) if ray else _one_process(folder)
    with form as (url, read):
        mix = Mix(url)
        done = threading.Event()
        own = [Counter[str]() for _ in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            sending = [
                pool.submit(mix.run, done, number, own[number], retry=kill_every is not None)
                for number in range(clients)
            ]
            begin = time.monotonic()
            while time.monotonic() - begin < seconds:
                time.sleep(interval)
                readings.append(read())
                at.append(time.monotonic() - begin)
            done.set()
            for future in sending:
                future.result()
    for counted in own:
        ends.update(counted)
    return at, readings, ends, kills


def judge(at: Sequence[float], readings: Sequence[Mapping[str, float]]) -> list[Flatness]:
    """Every quantity of the readings."""
    return [flatness(name, at, [reading[name] for reading in readings]) for name in readings[0]]


def _draw(path: Path, at: Sequence[float], readings: Sequence[Reading]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(readings[0])
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
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of its own")
    parser.add_argument("--kill-every", type=float, help="seconds between kills of replicas")
    parser.add_argument("--out", type=Path, help="path of the report, no suffix")
    options = parser.parse_args(arguments)
    if options.kill_every is not None and not options.ray:
        parser.error("--kill-every needs --ray: one process has no other to take over")
    if options.minutes * 60 < 8 * options.interval:
        parser.error("--minutes must have room for eight readings, or none could be flat")
    with tempfile.TemporaryDirectory() as folder:
        at, readings, ends, kills = soak(
            Path(folder),
            seconds=options.minutes * 60,
            interval=options.interval,
            clients=options.clients,
            ray=options.ray,
            kill_every=options.kill_every,
        )
    judged = judge(at, readings)
    bad = [end for end in ends if end.startswith("UNEXPECTED")]
    for one in judged:
        print(
            f"{one.quantity:16}{one.median:16.0f}   rise {one.rise:12.1f}, allowed "
            f"{one.allowed:12.1f}   {'flat' if one.flat else 'NOT FLAT'}"
        )
    for end, count in sorted(ends.items()):
        print(f"{count:8} {end}")
    if options.out is not None:
        settings = {
            name: getattr(options, name)
            for name in ("minutes", "interval", "clients", "ray", "kill_every")
        }
        report = {
            "settings": settings,
            "requests": sum(ends.values()),
            "ends": dict(sorted(ends.items())),
            "kills": dict(kills),
            "flatness": [asdict(one) | {"flat": one.flat} for one in judged],
            "at": [round(time, 1) for time in at],
            "readings": readings,
        }
        write_json(options.out.with_suffix(".json"), report | {"environment": environment()})
        _draw(options.out.with_suffix(".png"), at, readings)
    return 0 if all(one.flat for one in judged) and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
