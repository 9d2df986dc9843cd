"""What one stranger can do to a server: attacks of bounded size, and what everybody else sees.

    python -m benchmarks.serving.hostile --out benchmarks/results/serving/hostile.json

starts a server of the demo model for each attack, on this machine's loopback address with its
default settings. While the attack lasts a process of its own asks /healthz forty times a second:
the longest answer is how long the event loop stood still. Memory is the server's highest, above
what it had before; its image processes are counted, too. All of it competes for this machine's
processors, so the same probe without an attack stands beside, and each answer is also counted
without the time in which the loop's thread or the probe was ready and waited for a processor. The
machine's load average before each attack, over the last minute, is what others used of it.
"""

import argparse
import io
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from benchmarks.environment import environment
from benchmarks.serving.hostile_bodies import (
    MEBI,
    base64_json,
    escaped_json,
    nested_json,
    progressive_jpeg,
    segmented_jpeg,
)
from benchmarks.serving.hostile_watch import Watch
from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE
from flowmo.training.json_report import write_json

_ROOT = Path(__file__).resolve().parents[2]
_CHECKPOINT = _ROOT / "checkpoints" / "tiny"
_PICTURES = 64
_LEAVE_AFTER = 1.0
_DEADLINE = 2.0
# Of a picture each, in base64: more than all buffers on the way hold.
_EVENTS = 12
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
        load: The machine's load average of the minute before.
    """

    statuses: Mapping[str, int]
    seconds: float
    longest_stall_ms: float
    longest_own_stall_ms: float
    memory_mib: float
    sent_mib: float
    others: Mapping[str, Any]
    load: float


# --- attacks ------------------------------------------------------------------------------------


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


def hold_readers(server: ServerProcess, count: int) -> ExitStack:
    """Decodes whose previews are asked for as events, of which nobody reads one."""
    tokens = httpx.post(
        f"{server.url}/v1/tokenize",
        content=_honest_picture(),
        headers={"Content-Type": "image/png", "Accept": MEDIA_TYPE},
        timeout=300,
    ).content
    previews = "&".join(f"previews={step}" for step in range(1, _EVENTS + 1))
    head = (
        f"POST /v1/detokenize?stream=true&steps={_EVENTS}&guidance=1&{previews} HTTP/1.1\r\n"
        f"Host: here\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(tokens)}\r\n\r\n"
    )
    held = ExitStack()
    for _ in range(count):
        # What the client's own kernel takes does not count as left unread.
        connection = held.enter_context(_connect(server, window=4096))
        connection.sendall(head.encode() + tokens)
    time.sleep(0.5)
    return held


def _connect(server: ServerProcess, window: int | None = None) -> socket.socket:
    url = urlsplit(server.url)
    connection = socket.socket()
    if window is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.settimeout(120)
    connection.connect((url.hostname or "", url.port or 0))
    return connection


def _status(connection: socket.socket) -> int:
    line = connection.recv(4096).split(b" ", 2)
    return int(line[1]) if len(line) > 1 else 0


def _honest_picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    return buffer.getvalue()


def _ask(server: ServerProcess, seconds: float | None = None) -> dict[str, Any]:
    """An honest picture, and how long its answer took."""
    headers = {"Content-Type": "image/png"}
    if seconds is not None:
        headers["X-Request-Timeout-Seconds"] = f"{seconds:g}"
    begin = time.perf_counter()
    answer = httpx.post(
        f"{server.url}/v1/tokenize", content=_honest_picture(), headers=headers, timeout=300
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


def _readers(count: int) -> Attack:
    def attack(server: ServerProcess) -> tuple[Counter[int], int, dict[str, Any]]:
        begin = time.perf_counter()
        with hold_readers(server, count):
            others = {"meanwhile": _ask(server)}
            while (answer := _ask(server))["status"] != httpx.codes.OK:
                time.sleep(0.5)
            others["the next answer"] = answer
            while _admitted(server):
                time.sleep(0.1)
            others["every place is free after"] = {"seconds": round(time.perf_counter() - begin, 1)}
        return Counter(), 0, others

    return attack


def _admitted(server: ServerProcess) -> float:
    """The requests that the server says are inside."""
    text = httpx.get(f"{server.url}/metrics", timeout=120).text
    found = re.search(r"^flowmo_requests_admitted (\S+)$", text, flags=re.MULTILINE)
    assert found is not None
    return float(found[1])


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
    yield "8 readers that do not read", lambda: _readers(8)
    yield "64 readers that do not read", lambda: _readers(64)


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
    load = os.getloadavg()[0]
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
        load=round(load, 1),
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
