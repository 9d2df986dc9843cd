"""The edge of k8s/components/edge: the real HAProxy with its file, in front of a plain server."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import yaml

from tests.k8s.manifests import K8S
from tests.service.clusters import wait_until

EDGE = K8S / "components" / "edge"
HEAD = b"GET /fine HTTP/1.1\r\nHost: here\r\n"


class Upstream(BaseHTTPRequestHandler):
    """What stands behind: ``/ray/STATUS`` is Ray's own answer, others are a gateway's."""

    protocol_version = "HTTP/1.1"
    go_on = threading.Event()
    seen: ClassVar[dict[str, str]] = {}

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        type(self).seen = dict(self.headers.items())
        if self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(2):
                self.wfile.write(b"8\r\ndata: 1\n\r\n")
                self.go_on.wait(30)
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/cut":
            self.close_connection = True
        else:
            status = int(self.path.rpartition("/")[2]) if self.path[-1].isdigit() else 200
            self._answer(status, ours=not self.path.startswith("/ray/"))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, ours=True)

    def _answer(self, status: int, *, ours: bool) -> None:
        self.send_response(status)
        if ours:
            self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"text")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def deployment() -> dict[str, Any]:
    manifests = yaml.safe_load_all((EDGE / "deployment.yaml").read_text(encoding="utf-8"))
    (found,) = (one for one in manifests if one["kind"] == "Deployment")
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def haproxy(*arguments: str, **changes: str) -> "subprocess.Popen[bytes]":
    """The container's own command and variables, here."""
    (container,) = deployment()["containers"]
    program = shutil.which(container["command"][0], path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "HAProxy is missing: apt-get install haproxy (apt-packages.txt)"
    variables = {one["name"]: one["value"] for one in container["env"]} | changes
    command = [program, *arguments, "-f", str(EDGE / "haproxy.cfg")]
    assert [*container["command"][1:-1], "haproxy.cfg"] == ["-db", "-f", "haproxy.cfg"]
    return subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


class Edge:
    """A running edge."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, status: int) -> None:
        self.process, self.port = process, port
        self.url, self.status = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{status}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def resident(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s*(\d+)", text)
        assert found is not None
        return int(found[1]) * 1024


@contextmanager
def running(**changes: str) -> Iterator[Edge]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port, status = free_port(), free_port()
    process = haproxy(
        "-db",
        EDGE_UPSTREAM=f"127.0.0.1:{server.server_address[1]}",
        EDGE_ADDRESS=f"127.0.0.1:{port}",
        EDGE_STATUS_ADDRESS=f"127.0.0.1:{status}",
        EDGE_HEADER_SECONDS="1",
        **changes,
    )
    edge = Edge(process, port, status)
    try:
        for _ in range(200):
            try:
                if httpx.get(f"{edge.status}/healthz").is_success:
                    break
            except httpx.TransportError:
                threading.Event().wait(0.05)
        yield edge
    finally:
        Upstream.go_on.set()
        process.kill()
        process.communicate()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with running() as found:
        yield found


def problem(status: int, media_type: str | None, text: str | bytes) -> dict[str, Any]:
    assert media_type == "application/problem+json", text
    document: dict[str, Any] = json.loads(text)
    assert document["status"] == status
    assert {"type", "title", "detail", "instance", "code", "hint"} <= set(document)
    return document


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    return problem(answer.status_code, answer.headers.get("Content-Type"), answer.content)


def answer_of(connection: socket.socket) -> tuple[int, bytes, bytes]:
    """The status, the head and the body that a connection ends with."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head.lower(), body


def told(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """The status and the problem that a connection ends with."""
    status, head, body = answer_of(connection)
    assert b"content-type: application/problem+json" in head
    return status, problem(status, "application/problem+json", body)


def test_haproxy_accepts_the_file() -> None:
    process = haproxy("-c", EDGE_UPSTREAM="127.0.0.1:8000")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output.decode()
    assert b"WARNING" not in output, output.decode()


def test_requests_pass_with_a_name_and_without_what_strangers_may_not_say(edge: Edge) -> None:
    headers = {"X-Request-ID": "mine", "X-Request-Disconnect-Disabled": "1"}
    answer = httpx.get(f"{edge.url}/fine", headers=headers)
    assert (answer.status_code, answer.text) == (200, "text")
    seen = {name.lower(): value for name, value in Upstream.seen.items()}
    assert seen["x-request-id"] == "mine"
    assert "x-request-disconnect-disabled" not in seen
    httpx.get(f"{edge.url}/fine", headers={"X-Request-ID": 'a"b'})
    seen = {name.lower(): value for name, value in Upstream.seen.items()}
    assert re.fullmatch(r"[0-9a-f-]{36}", seen["x-request-id"])
    body = b"x" * 1_000_000
    assert httpx.post(f"{edge.url}/upload", content=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/ray/408", 504, "deadline-exceeded"),
        ("/ray/503", 503, "not-ready"),
        ("/ray/404", 503, "not-ready"),
        ("/ray/500", 502, "gateway-lost"),
        ("/cut", 502, "gateway-lost"),
        ("/-/routes", 404, "not-found"),
        ("/metrics", 404, "not-found"),
    ],
)
def test_what_is_no_gateways_answer_is_a_problem(
    edge: Edge, path: str, status: int, code: str
) -> None:
    answer = httpx.get(f"{edge.url}{path}")
    assert (answer.status_code, problem_of(answer)["code"]) == (status, code)
    if status in {502, 503}:
        assert int(answer.headers["Retry-After"]) == problem_of(answer)["retry_after"]


@pytest.mark.parametrize("status", [404, 408, 429, 500, 503])
def test_a_gateways_own_errors_pass(edge: Edge, status: int) -> None:
    answer = httpx.get(f"{edge.url}/gateway/{status}")
    assert (answer.status_code, answer.text) == (status, "text")


def test_a_body_that_is_declared_too_large_is_not_read(edge: Edge) -> None:
    with edge.connect() as connection:
        connection.sendall(
            b"POST /upload HTTP/1.1\r\nHost: here\r\nContent-Length: 33554433\r\n\r\n"
        )
        status, document = told(connection)
    assert (status, document["code"]) == (413, "body-too-large")


@pytest.mark.parametrize("begin", [b"GET /fine HT", HEAD + b"x: y"])
def test_headers_that_do_not_arrive_are_late(edge: Edge, begin: bytes) -> None:
    with edge.connect() as connection:
        connection.sendall(begin)
        assert answer_of(connection)[0] == 408  # in HAProxy's own words


@pytest.mark.parametrize(
    "begin",
    [
        b"POST /upload HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\nabc",
        b"POST /upload HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
    ids=["sized", "chunked"],
)
def test_a_body_that_does_not_arrive_is_late(edge: Edge, begin: bytes) -> None:
    with edge.connect() as connection:
        connection.sendall(begin)
        status, document = told(connection)
    assert (status, document["code"]) == (408, "body-timeout")


@pytest.mark.parametrize("line", [b"a: b\r\n", b"a: " + b"b" * 8000 + b"\r\n"])
def test_headers_without_end_are_cut_and_leave_no_memory(edge: Edge, line: bytes) -> None:
    before, connections, sent = edge.resident(), 50, 0
    for _ in range(connections):
        with edge.connect() as connection:
            connection.sendall(HEAD)
            try:
                while sent < 300_000_000:
                    connection.sendall(line * 100)
                    sent += 100 * len(line)
            except OSError:
                pass
    # What buffers of the two ends took was taken, too.
    assert sent < connections * 8 * 2**20
    assert edge.resident() - before < 32 * 2**20
    with edge.connect() as connection:
        connection.sendall(HEAD + line * (40_000 // len(line)) + b"\r\n")
        assert answer_of(connection)[0] == 400


def test_connections_of_one_address_are_bounded() -> None:
    with running(EDGE_ADDRESS_CONNECTIONS="3") as edge:
        held = [edge.connect() for _ in range(3)]
        answer = httpx.get(f"{edge.url}/fine")
        assert (answer.status_code, problem_of(answer)["code"]) == (429, "queue-full")
        for connection in held:
            connection.close()


def is_open(edge: Edge) -> bool:
    try:
        edge.connect().close()
    except ConnectionRefusedError:
        return False
    return True


def test_events_pass_as_they_come_and_the_end_waits_for_them() -> None:
    Upstream.go_on.clear()
    with running() as edge:
        with httpx.stream("GET", f"{edge.url}/events", timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "data: 1"  # the server has not sent the second one
            edge.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: not is_open(edge), 10)
            Upstream.go_on.set()
            assert list(lines) == ["data: 1"]
        assert edge.process.wait(30) == 0


def test_the_pod_waits_for_the_end_of_haproxy() -> None:
    spec = deployment()
    (container,) = spec["containers"]
    pause = sum(
        int(seconds)
        for seconds in re.findall(r"sleep (\d+)", str(container["lifecycle"]["preStop"]))
    )
    text = (EDGE / "haproxy.cfg").read_text(encoding="utf-8")
    hard_stop = re.search(r"hard-stop-after (\d+)s", text)
    assert hard_stop is not None
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert float(variables["EDGE_SERVER_SECONDS"]) < int(hard_stop[1]) <= pause
    assert pause < spec["terminationGracePeriodSeconds"]
    config = yaml.safe_load((K8S / "overlays" / "h100" / "serve.yaml").read_text(encoding="utf-8"))
    assert float(variables["EDGE_SERVER_SECONDS"]) > config["http_options"]["request_timeout_s"]
