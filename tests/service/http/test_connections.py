"""Connections of strangers to a real server: headers without end, and answers that nobody reads."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.model.tokens import Tokens
from flowmo.service.http.connections import ConnectionLimits, _Pending
from flowmo.service.loader import load_runner
from tests.model.checkpoints import save_random
from tests.service.clusters import wait_until
from tests.service.fixtures import CONFIG, cpu

HEAD = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The very small model with pictures of some size."""
    config = replace(CONFIG, image_size=256, patch_size=64)
    return save_random(tmp_path_factory.mktemp("large"), config, seed=0)


@pytest.fixture(scope="module")
def container(checkpoint: Path) -> bytes:
    info = load_runner(cpu(checkpoint)).info
    ids = np.full((info.config.code_length, info.config.ids_per_token), 9, np.int32)
    tokens = Tokens(ids=ids, group_bits=info.config.group_bits)
    side = info.image_size
    container = Container(tokens=tokens, fingerprint=info.fingerprint, width=side, height=side)
    return container.to_bytes()


@pytest.fixture(scope="module")
def strict(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("strict") / "server.log"
    arguments = [
        f"--checkpoint={checkpoint}",
        "--threads=1",
        "--max-header-bytes=8192",
        "--header-seconds=2",
        "--send-seconds=1",
        "--max-concurrent-requests=1",
    ]
    with ServerProcess(arguments, log=log) as process:
        yield process
    assert "Traceback" not in log.read_text()


def connected(server: ServerProcess, *, small_window: bool = False) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    if small_window:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect((host, int(port)))
    return connection


def answer_of(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def sent(connection: socket.socket, data: bytes, most: int) -> int:
    """How many bytes of ``data``, over and over, the server takes before it closes."""
    taken = 0
    try:
        while taken < most:
            connection.sendall(data)
            taken += len(data)
    except OSError:
        pass
    return taken


@pytest.mark.parametrize(
    "more",
    [b"a: b\r\n", b"x" * 1000, b"a: " + b"b" * 600 + b"\r\n"],
    ids=["many", "one without end", "large"],
)
def test_headers_are_cut_where_they_are_too_large(strict: ServerProcess, more: bytes) -> None:
    with connected(strict) as connection:
        connection.sendall(HEAD)
        taken = sent(connection, more * 10, 64 * 2**20)
        # What lies in buffers of the two ends was taken, too.
        assert taken < 32 * 2**20
    with connected(strict) as connection:
        connection.sendall(HEAD + more * (9000 // len(more)))
        assert answer_of(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
        HEAD + b"x: y\r\n" * 101 + b"\r\n",
        b"GET /healthz?" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
    ],
    ids=["bytes", "fields", "line"],
)
def test_headers_that_come_in_one_piece_are_measured_too(
    strict: ServerProcess, head: bytes
) -> None:
    with connected(strict) as connection:
        connection.sendall(head)
        assert answer_of(connection).startswith(b"HTTP/1.1 431 ")


def test_fields_after_a_chunked_body_are_cut_too(strict: ServerProcess) -> None:
    with connected(strict) as connection:
        connection.sendall(
            b"POST /v1/detokenize HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/octet-stream\r\n\r\n1\r\nx\r\n0\r\nz: "
        )
        assert sent(connection, b"y" * 10_000, 64 * 2**20) < 32 * 2**20


@pytest.mark.parametrize("begin", [b"", b"G", HEAD + b"x: y"])
def test_headers_that_do_not_end_are_late(strict: ServerProcess, begin: bytes) -> None:
    with connected(strict) as connection:
        connection.sendall(begin)
        assert answer_of(connection).startswith(b"HTTP/1.1 408 ")


def test_headers_that_dribble_are_late_as_well(strict: ServerProcess) -> None:
    with connected(strict) as connection:
        connection.sendall(HEAD + b"x: ")
        for _ in range(100):
            try:
                connection.sendall(b"y")
            except OSError:
                break
            threading.Event().wait(0.2)
        else:
            pytest.fail("the connection is still open")


def test_the_next_request_of_a_connection_has_the_same_limits(strict: ServerProcess) -> None:
    with connected(strict) as connection:
        for _ in range(3):
            connection.sendall(HEAD + b"\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
        connection.sendall(HEAD + b"x: y")
        assert answer_of(connection).startswith(b"HTTP/1.1 408 ")
    with connected(strict) as connection:
        connection.sendall(HEAD + b"\r\n" + HEAD + b"x: " + b"y" * 20_000)
        assert answer_of(connection).count(b"HTTP/1.1 200 ") <= 1


def test_ordinary_requests_are_not_in_the_way(strict: ServerProcess) -> None:
    with httpx.Client(base_url=strict.url, timeout=60) as client:
        for _ in range(3):
            answer = client.get("/healthz", headers={"X-Long": "y" * 4000})
            assert answer.status_code == 200
            threading.Event().wait(2.5)  # idle, longer than headers may take


def test_health_is_told_to_who_asks_for_headers_alone(strict: ServerProcess) -> None:
    with httpx.Client(base_url=strict.url, timeout=60) as client:
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            alone, whole = client.head(path), client.get(path)
            assert (alone.status_code, alone.content) == (200, b"")
            assert alone.headers["Content-Length"] == str(len(whole.content))


def test_all_unfinished_headers_together_are_bounded_and_small_ones_are_spared() -> None:
    """Sixteen MiB, of which no server process can be asked here without thousands of sockets."""

    class Connection:
        def __init__(self) -> None:
            self.status = 0

        def refuse(self, status: int) -> None:
            self.status = status
            pending.set(self, 0)  # type: ignore[arg-type]

    limits = ConnectionLimits(
        header_bytes=100, header_seconds=1, send_seconds=1, pending_bytes=1000
    )
    pending = _Pending(limits)
    small, *large = (Connection() for _ in range(12))
    pending.set(small, 10)  # type: ignore[arg-type]
    for connection in large:
        pending.set(connection, 100)  # type: ignore[arg-type]
    assert small.status == 0
    assert [c.status for c in large].count(503) == 2
    assert pending.total == sum(pending.sizes.values()) == 910


def test_an_answer_that_nobody_reads_frees_its_place(
    strict: ServerProcess, container: bytes
) -> None:
    """Its events are more than all buffers on the way hold."""
    query = "&".join(f"previews={step}" for step in range(1, 33))
    head = (
        f"POST /v1/detokenize?stream=true&steps=40&{query} HTTP/1.1\r\nHost: here\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(container)}\r\n\r\n"
    )
    with (
        httpx.Client(base_url=strict.url, timeout=60) as client,
        connected(strict, small_window=True) as connection,
    ):
        connection.sendall(head.encode() + container)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"

        def asked() -> int:
            headers = {"Content-Type": MEDIA_TYPE}
            return client.post("/v1/detokenize", content=container, headers=headers).status_code

        assert asked() == 429
        wait_until(lambda: asked() == 200, 60)
