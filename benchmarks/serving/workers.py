"""Gateways apart from the engine: one process beside ``--workers`` 2 and 4, answering with PNG.

    python -m benchmarks.serving.workers --out benchmarks/results/serving/workers.json

starts a server of each form whose engine costs next to nothing (``instant.py``), so that what is
left is HTTP, image files and the socket between processes. Each is asked by as many connections as
``--connections`` says, each of which sends its next request when it has its answer; the forms are
measured in turns, and compared as ratios within a turn. The client runs on the same processors.
"""

import argparse
import asyncio
import os
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.environment import environment
from benchmarks.serving.instant import container
from benchmarks.serving.summary import Spread, spread
from benchmarks.serving.workers_call import measure_calls
from flowmo.cli.server_process import ServerProcess
from flowmo.training.json_report import write_json

_CPU = re.compile(
    r'^process_cpu_seconds_total(?:\{process="([a-z]+)[-0-9]*"\})? (\S+)$', re.MULTILINE
)
_RAMP_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One form of server under load for a while.

    Attributes:
        pictures_a_second: Answers a second.
        latency: From the request's first byte to the answer's last, in seconds.
        cpu_ms: Processor time a picture in milliseconds, by the kind of process.
        loop_ms: That of the first process' main thread, which is the event loop where there is one
            process for all: no number of processors makes it answer more than 1000 / loop_ms.
    """

    pictures_a_second: float
    latency: Spread
    cpu_ms: dict[str, float]
    loop_ms: float


async def _ask(
    url: str, body: bytes, connections: int, seconds: float
) -> list[tuple[float, float]]:
    """Keep so many requests inside; the start and the end of each that was answered."""
    address = urlsplit(url)
    done: list[tuple[float, float]] = []
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        seed = number
        while time.monotonic() < end:
            head = (
                f"POST /v1/detokenize?steps=1&seed={seed} HTTP/1.1\r\nHost: {address.netloc}\r\n"
                f"Content-Type: application/vnd.flowmo\r\nAccept: image/png\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            seed += connections
            begin = time.monotonic()
            writer.write(head.encode() + body)
            headers = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not headers.startswith(b"http/1.1 200"):
                raise ConnectionError(f"the server did not answer with a picture: {headers!r}")
            size = int(headers.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            done.append((begin, time.monotonic()))
        writer.close()

    await asyncio.gather(*(one(number) for number in range(connections)))
    return done


def _cpu_seconds(url: str) -> dict[str, float]:
    found: dict[str, float] = {}
    text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
    for kind, seconds in _CPU.findall(text):
        found[kind or "alone"] = found.get(kind or "alone", 0.0) + float(seconds)
    return found


def _main_thread_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def _turn(server: ServerProcess, connections: int, seconds: float) -> Turn:
    body, url = container(), server.url
    asyncio.run(_ask(url, body, connections, _RAMP_SECONDS))
    before, loop, begin = _cpu_seconds(url), _main_thread_seconds(server.pid), time.monotonic()
    done = asyncio.run(_ask(url, body, connections, seconds))
    took = time.monotonic() - begin
    loop, after = _main_thread_seconds(server.pid) - loop, _cpu_seconds(url)
    return Turn(
        pictures_a_second=len(done) / took,
        latency=spread([end - begin for begin, end in done]),
        cpu_ms={k: 1e3 * (after[k] - before.get(k, 0.0)) / len(done) for k in after},
        loop_ms=1e3 * loop / len(done),
    )


def measure(workers: Sequence[int], *, turns: int, seconds: float, connections: int) -> Any:
    """Measure all forms in turns.

    Args:
        workers: The forms: how many processes answer HTTP; 1 is one process for all.
        turns: How often each is measured.
        seconds: How long each time.
        connections: Requests inside at once.
    """
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FLOWMO_")}
        servers: dict[int, ServerProcess] = {}
        for number in workers:
            arguments = [
                "--runner=benchmarks.serving.instant:make", f"--workers={number}",
                "--cache-bytes=0", "--log-level=warning",
            ]  # fmt: skip
            server = ServerProcess(arguments, log=logs / f"{number}.log", environment=clean)
            servers[number] = stack.enter_context(server)
        loaded: dict[int, list[Turn]] = {number: [] for number in workers}
        alone: dict[int, list[Turn]] = {number: [] for number in workers}
        for _ in range(turns):
            for number in workers:
                loaded[number].append(_turn(servers[number], connections, seconds))
                alone[number].append(_turn(servers[number], 1, seconds / 4))
    first = loaded[workers[0]]

    def ratio(turns: list[Turn], of: str) -> float:
        def value(turn: Turn) -> float:
            return turn.pictures_a_second if of == "pictures" else turn.latency.p95

        return statistics.median(value(t) / value(f) for t, f in zip(turns, first, strict=True))

    return {
        "connections": connections,
        "seconds": seconds,
        "workers": {
            str(number): {
                "pictures_a_second": statistics.median(t.pictures_a_second for t in loaded[number]),
                "pictures_ratio": ratio(loaded[number], "pictures"),
                "p95_ratio": ratio(loaded[number], "p95"),
                "cpu_ms_a_picture": {
                    kind: statistics.median(t.cpu_ms[kind] for t in loaded[number])
                    for kind in loaded[number][0].cpu_ms
                },
                "loop_ms_a_picture": statistics.median(t.loop_ms for t in loaded[number]),
                "one_at_a_time_p50": statistics.median(t.latency.p50 for t in alone[number]),
                "turns": [asdict(turn) for turn in loaded[number]],
            }
            for number in workers
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.workers")
    parser.add_argument("--out", type=Path, required=True, help="path of the report")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args(arguments)
    report = measure(
        options.workers,
        turns=options.turns,
        seconds=options.seconds,
        connections=options.connections,
    )
    report["call"] = measure_calls()
    report["environment"] = environment()
    write_json(options.out, report)
    for number, form in report["workers"].items():
        print(
            f"{number} workers: {form['pictures_a_second']:.0f} pictures/s "
            f"({form['pictures_ratio']:.2f}), p95 {form['p95_ratio']:.2f}, "
            f"CPU ms a picture {form['cpu_ms_a_picture']}, of the main thread "
            f"{form['loop_ms_a_picture']:.2f}, "
            f"alone {1e3 * form['one_at_a_time_p50']:.1f} ms"
        )
    print(report["call"])


if __name__ == "__main__":
    main()
