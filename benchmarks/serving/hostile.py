"""What one stranger can do to a server: attacks of bounded size, and what everybody else sees.

    python -m benchmarks.serving.hostile --out benchmarks/results/serving/hostile.json

starts a server of the demo model for each attack, on this machine's loopback address with its
default settings. While the attack lasts a process of its own asks /healthz forty times a second:
the longest answer is how long the event loop stood still. Memory is the server's highest, above
what it had before; its image processes are counted, too. All of it competes for this machine's
processors, so the same probe without an attack stands beside, and each answer is also counted
without the time in which the loop's thread or the probe was ready and waited for a processor.
"""

import argparse
import base64
import io
import json
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

from benchmarks.environment import environment
from flowmo.cli.server_process import ServerProcess
from flowmo.training.json_report import write_json

MEBI = 2**20
BODY_BYTES = 32 * MEBI - 1024
_ROOT = Path(__file__).resolve().parents[2]
_CHECKPOINT = _ROOT / "checkpoints" / "tiny"
_PROBE_PAUSE = 0.025
_PICTURES = 64
_LEAVE_AFTER = 1.0
_DEADLINE = 2.0
_HEADER_BYTES = 300_000_000
_HEADER_CONNECTIONS = 50
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What an attack did.

    Attributes:
        statuses: How often each status was answered to the attackers; 0 is a cut connection.
        seconds: The time that the attack took.
        longest_stall_ms: The longest answer of /healthz meanwhile.
        longest_own_stall_ms: The same without what was waited for a processor.
        memory_mib: The most memory above that before the attack.
        sent_mib: What the attackers sent.
        others: What was answered to somebody else meanwhile.
    """

    statuses: Mapping[str, int]
    seconds: float
    longest_stall_ms: float
    longest_own_stall_ms: float
    memory_mib: float
    sent_mib: float
    others: Mapping[str, Any]


# --- what is watched ----------------------------------------------------------------------------


def _probe(url: str, server: int, ready: Any, stop: Any, longest: Any) -> None:
    def waited() -> float:
        """The seconds that the loop's thread and this one have waited for a processor."""
        files = (f"/proc/{pid}/task/{pid}/schedstat" for pid in (server, os.getpid()))
        return sum(int(Path(file).read_text().split()[1]) for file in files) / 1e9

    with httpx.Client(base_url=url, timeout=120) as client:
        client.get("/healthz")
        ready.set()
        while not stop.is_set():
            begin, before = time.perf_counter(), waited()
            client.get("/healthz")
            seconds = time.perf_counter() - begin
            longest[0] = max(longest[0], seconds)
            longest[1] = max(longest[1], seconds - (waited() - before))
            time.sleep(_PROBE_PAUSE)


class Watch:
    """The longest stall and the most memory of a server while a block runs.

    Args:
        server: The server.

    Attributes:
        stall_seconds: The longest answer of /healthz.
        own_stall_seconds: The longest one without what was waited for a processor.
        memory_bytes: The most memory above that at the start.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.stall_seconds = self.own_stall_seconds = 0.0
        self.memory_bytes = 0

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        ready, self._stop, self._longest = context.Event(), context.Event(), context.Array("d", 2)
        self._done = threading.Event()
        self._process = context.Process(
            target=_probe,
            args=(self._server.url, self._server.pid, ready, self._stop, self._longest),
        )
        self._process.start()
        before = _resident(self._server.pid)

        def look() -> None:
            while not self._done.wait(0.02):
                self.memory_bytes = max(self.memory_bytes, _resident(self._server.pid) - before)

        self._thread = threading.Thread(target=look)
        self._thread.start()
        ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._stop.set()
        self._thread.join()
        self._process.join()
        self.stall_seconds, self.own_stall_seconds = self._longest[0], self._longest[1]


def _resident(pid: int) -> int:
    """Memory that a process and its children have resident."""
    total = 0
    for process in (pid, *_children(pid)):
        try:
            found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
        except OSError:
            continue
        total += 0 if found is None else int(found[1]) * 1024
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue
    return found


# --- attacks ------------------------------------------------------------------------------------


def nested_json() -> bytes:
    """As many empty lists as a body may hold."""
    return b'{"x":[' + b",".join([b"[]"] * (BODY_BYTES // 3)) + b"]}"


def base64_json() -> bytes:
    """A body that is one string; no picture, but what an honest one looks like to the parser."""
    return b'{"image":"%b"}' % base64.b64encode(os.urandom(BODY_BYTES // 4 * 3 - 64))


def escaped_json() -> bytes:
    """A string of escapes."""
    return b'{"image":"%b"}' % (b"\\u0041" * (BODY_BYTES // 6 - 16))


def progressive_jpeg(side: int = 7000, scans: int = 64) -> bytes:
    """A picture of 49 megapixels that is gone over ``scans`` times."""
    tile = np.random.default_rng(0).integers(0, 255, (500, 500, 3), np.uint8)
    picture = Image.fromarray(np.tile(tile, (side // 500, side // 500, 1)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", progressive=True, quality=1)
    data = buffer.getvalue()
    last = data[data.rfind(b"\xff\xda") : -2]
    room = (BODY_BYTES - len(data)) // len(last)
    return data[:-2] + last * min(scans - data.count(b"\xff\xda"), room) + b"\xff\xd9"


def segmented_jpeg() -> bytes:
    """A small picture behind eight million empty comments."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    data = buffer.getvalue()
    return data[:2] + b"\xff\xfe\x00\x02" * (BODY_BYTES // 4 - 1000) + data[2:]


def post_json(server: ServerProcess, body: bytes, at_once: int) -> tuple[Counter[int], int]:
    """Post a body to tokenize, ``at_once`` times at the same time."""

    def one(_: int) -> int:
        return httpx.post(
            f"{server.url}/v1/tokenize", content=body, headers=_JSON, timeout=120
        ).status_code

    with ThreadPoolExecutor(at_once) as pool:
        return Counter(pool.map(one, range(at_once))), at_once * len(body)


def send_headers(server: ServerProcess) -> tuple[Counter[int], int]:
    """Many small headers, without end, on many connections."""
    line = b"a: b\r\n" * 1000

    def one(_: int) -> tuple[int, int]:
        sent = 0
        with _connect(server) as connection:
            try:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n")
                while sent < _HEADER_BYTES // _HEADER_CONNECTIONS:
                    connection.sendall(line)
                    sent += len(line)
                connection.sendall(b"\r\n")
                return _status(connection), sent
            except OSError:
                return 0, sent

    with ThreadPoolExecutor(_HEADER_CONNECTIONS) as pool:
        found = list(pool.map(one, range(_HEADER_CONNECTIONS)))
    return Counter(status for status, _ in found), sum(sent for _, sent in found)


def leave_pictures(server: ServerProcess, data: bytes) -> Iterator[tuple[Counter[int], int]]:
    """Pictures that take long, whose clients leave after a second: a step while they are there."""
    with ExitStack() as held:
        connections = [held.enter_context(_connect(server)) for _ in range(_PICTURES)]
        head = (
            f"POST /v1/tokenize?fit=crop HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )

        def send(connection: socket.socket) -> int:
            try:
                connection.sendall(head.encode() + data)
            except OSError:
                return 0
            return len(data)

        with ThreadPoolExecutor(_PICTURES) as pool:
            sent = sum(pool.map(send, connections))
        time.sleep(_LEAVE_AFTER)
        yield Counter(), sent
    yield Counter({0: _PICTURES}), sent


def hold_uploads(server: ServerProcess, count: int) -> ExitStack:
    """Chunked uploads that send a few bytes and then nothing."""
    held = ExitStack()
    for _ in range(count):
        connection = held.enter_context(_connect(server))
        connection.sendall(
            b"POST /v1/tokenize HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n8\r\n\x89PNG....\r\n"
        )
    time.sleep(0.5)
    return held


def _connect(server: ServerProcess) -> socket.socket:
    url = urlsplit(server.url)
    return socket.create_connection((url.hostname or "", url.port or 0), timeout=120)


def _status(connection: socket.socket) -> int:
    line = connection.recv(4096).split(b" ", 2)
    return int(line[1]) if len(line) > 1 else 0


def _ask(server: ServerProcess, seconds: float | None = None) -> dict[str, Any]:
    """An honest picture, and how long its answer took."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    headers = {"Content-Type": "image/png"}
    if seconds is not None:
        headers["X-Request-Timeout-Seconds"] = f"{seconds:g}"
    begin = time.perf_counter()
    answer = httpx.post(
        f"{server.url}/v1/tokenize", content=buffer.getvalue(), headers=headers, timeout=300
    )
    found: dict[str, Any] = {
        "status": answer.status_code,
        "seconds": round(time.perf_counter() - begin, 2),
    }
    if "Retry-After" in answer.headers:
        found["retry_after"] = int(answer.headers["Retry-After"])
    return found


# --- all of them --------------------------------------------------------------------------------

Attack = Callable[[ServerProcess], tuple[Counter[int], int, dict[str, Any]]]


def _json_attack(make: Callable[[], bytes], at_once: int) -> Attack:
    body = make()

    def attack(server: ServerProcess) -> tuple[Counter[int], int, dict[str, Any]]:
        return *post_json(server, body, at_once), {}

    return attack


def _picture_attack(make: Callable[[], bytes]) -> Attack:
    data = make()

    def attack(server: ServerProcess) -> tuple[Counter[int], int, dict[str, Any]]:
        steps = leave_pictures(server, data)
        _, sent = next(steps)
        others = {f"with a deadline of {_DEADLINE:g} s": _ask(server, _DEADLINE)}
        statuses, sent = next(steps)
        for _ in steps:
            pass
        others["after they left"] = _ask(server)
        return statuses, sent, others

    return attack


def _headers(server: ServerProcess) -> tuple[Counter[int], int, dict[str, Any]]:
    return *send_headers(server), {}


def _uploads(count: int) -> Attack:
    def attack(server: ServerProcess) -> tuple[Counter[int], int, dict[str, Any]]:
        with hold_uploads(server, count):
            return Counter(), 8 * count, {"meanwhile": _ask(server)}

    return attack


def _nothing(_: ServerProcess) -> tuple[Counter[int], int, dict[str, Any]]:
    time.sleep(3.0)
    return Counter(), 0, {}


def attacks() -> Iterator[tuple[str, Callable[[], Attack]]]:
    """The attacks by name; each is made only when its turn has come, since some are large."""
    yield "no attack", lambda: _nothing
    for name, make in (
        ("empty lists", nested_json), ("base64", base64_json), ("escapes", escaped_json),
    ):  # fmt: skip
        for at_once in (1, 4):
            yield (
                f"32 MiB of JSON, {name}, {at_once} at once",
                lambda make=make, at_once=at_once: _json_attack(make, at_once),  # type: ignore[misc]
            )
    yield f"{_HEADER_BYTES // 10**6} MB of headers", lambda: _headers
    yield f"{_PICTURES} progressive JPEGs", lambda: _picture_attack(progressive_jpeg)
    yield f"{_PICTURES} segmented JPEGs", lambda: _picture_attack(segmented_jpeg)
    yield "8 uploads that stop", lambda: _uploads(8)
    yield "64 uploads that stop", lambda: _uploads(64)


@contextmanager
def _server(folder: Path) -> Iterator[ServerProcess]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("FLOWMO_")}
    arguments = [f"--checkpoint={_CHECKPOINT}", "--threads=1", "--device=cpu"]
    with ServerProcess(arguments, log=folder / "log", environment=own) as server:
        _ask(server)  # the first picture starts what reads it
        yield server


def measure(make: Callable[[], Attack]) -> Outcome:
    """Start a server, attack it, and look at it meanwhile."""
    attack = make()
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as server:
        begin = time.perf_counter()
        with Watch(server) as watch:
            statuses, sent, others = attack(server)
        seconds = time.perf_counter() - begin
    return Outcome(
        statuses={str(status): count for status, count in sorted(statuses.items())},
        seconds=round(seconds, 1),
        longest_stall_ms=round(watch.stall_seconds * 1e3, 1),
        longest_own_stall_ms=round(watch.own_stall_seconds * 1e3, 1),
        memory_mib=round(watch.memory_bytes / MEBI, 1),
        sent_mib=round(sent / MEBI, 1),
        others=others,
    )


def main(arguments: list[str]) -> None:
    """Run the attacks, and write what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="attacks whose name has this in it")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {"environment": environment(), "attacks": {}}
    for name, make in attacks():
        if options.only in name:
            outcome = asdict(measure(make))
            report["attacks"][name] = outcome
            print(name, json.dumps(outcome), flush=True)
            write_json(options.out, report)  # the rest takes minutes


if __name__ == "__main__":
    main(sys.argv[1:])
