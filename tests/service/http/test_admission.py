"""The admission limiter: requests and bytes, and what is said to whoever comes too much."""

import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.cli.server_process import ServerProcess
from flowmo.service.errors import QueueFullError
from flowmo.service.http.admission import Admission, AdmissionLimiter
from tests.service.pictures import as_file, gradient
from tests.service.probes import wait_for

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def admit(
    limiter: AdmissionLimiter, stack: ExitStack, declared: int = 0, backlog: float = 0.0
) -> Admission:
    return stack.enter_context(limiter.admit(declared, backlog_seconds=backlog, body_seconds=30.0))


def test_requests_are_admitted_up_to_the_capacity_and_again_when_one_has_left() -> None:
    limiter = AdmissionLimiter(2, 1000)
    with ExitStack() as stack:
        for _ in range(2):
            admission = admit(limiter, stack, 10)
            admission.arrived(10)
            admission.complete()
        assert (limiter.admitted, limiter.admitted_bytes) == (2, 20)
        with pytest.raises(
            QueueFullError, match=r"2 requests are inside, at most 2 .*7\.4 s"
        ) as full:
            admit(limiter, stack, 10, backlog=7.4)
        assert full.value.retry_after == 8
    assert (limiter.admitted, limiter.admitted_bytes) == (0, 0)
    with ExitStack() as stack:
        admit(limiter, stack, 10)
        assert limiter.admitted == 1


def test_bytes_are_reserved_as_they_arrive_and_not_as_they_are_announced() -> None:
    limiter = AdmissionLimiter(9, 100)
    with ExitStack() as stack:
        slow = [admit(limiter, stack, 90) for _ in range(8)]
        assert limiter.admitted_bytes == 0
        admit(limiter, stack, 100).arrived(60)
        slow[0].arrived(40)
        with pytest.raises(QueueFullError, match="bodies of 100 bytes are inside, at most 100"):
            slow[1].arrived(1)
        assert limiter.admitted_bytes == 100


def test_bytes_are_bounded_but_a_single_request_always_comes_in() -> None:
    limiter = AdmissionLimiter(8, 100)
    with ExitStack() as stack:
        admit(limiter, stack, 5000).arrived(5000)
        with pytest.raises(QueueFullError, match="bodies of 5,000 bytes are inside, at most 100"):
            admit(limiter, stack, 1)
    assert limiter.admitted_bytes == 0


def test_whoever_is_refused_is_told_when_the_first_place_will_be_free() -> None:
    clock = Clock()
    limiter = AdmissionLimiter(3, 1000, clock=clock)

    def told(backlog: float) -> int:
        with pytest.raises(QueueFullError) as full:
            admit(limiter, stack, backlog=backlog)
        return full.value.retry_after

    with ExitStack() as stack:
        uploads = []
        for _ in range(3):
            uploads.append(admit(limiter, stack))
            clock.now += 4
        # All of them only send; the first must be done 30 s after it came.
        assert told(backlog=0.0) == 18
        clock.now += 10
        assert told(backlog=0.0) == 8
        # One has sent everything, and will be done with the work that is inside.
        uploads[2].complete()
        assert told(backlog=2.5) == 3
        assert told(backlog=60.0) == 8
        # A client that does not read its answer is cut off after a while.
        with uploads[2].sending(5.0):
            assert told(backlog=0.0) == 5
        clock.now += 100
        assert told(backlog=60.0) == 1


def test_a_request_that_fails_leaves_like_any_other() -> None:
    limiter = AdmissionLimiter(1, 100)
    stack = ExitStack()
    admit(limiter, stack).arrived(7)
    error = ValueError("broken")
    stack.__exit__(ValueError, error, None)
    assert (limiter.admitted, limiter.admitted_bytes) == (0, 0)


def test_what_comes_after_a_refusal_is_not_counted() -> None:
    limiter = AdmissionLimiter(1, 100)
    with ExitStack() as stack:
        admission = admit(limiter, stack)
    admission.arrived(50)
    assert limiter.admitted_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=40))
def test_bytes_are_never_more_than_there_may_be_but_for_one_alone(
    events: list[tuple[int, int]],
) -> None:
    limiter = AdmissionLimiter(4, 100)
    stacks: dict[int, ExitStack] = {}
    inside: dict[int, Admission] = {}
    for who, size in events:
        if who not in inside:
            stacks[who] = ExitStack()
            try:
                inside[who] = admit(limiter, stacks[who], size)
            except QueueFullError:
                continue
        elif size % 5 == 0:
            inside.pop(who)
            stacks.pop(who).close()
        else:
            try:
                inside[who].arrived(size)
            except QueueFullError:
                assert len(inside) > 1
        assert limiter.admitted_bytes == sum(one.size for one in inside.values())
        assert limiter.admitted_bytes <= 100 or len(inside) == 1
    for stack in stacks.values():
        stack.close()
    assert (limiter.admitted, limiter.admitted_bytes) == (0, 0)


# --- a real server ------------------------------------------------------------------------------


def _upload(server: ServerProcess, framing: str) -> socket.socket:
    """A request that sends a part of its body, and then nothing."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(
        f"POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
        f"{framing}\r\n\r\n8\r\n\x89PNG....\r\n".encode("latin-1")
    )
    return connection


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 1000000"])
def test_uploads_that_send_little_take_no_room_from_others(
    checkpoint: Path, tmp_path: Path, framing: str
) -> None:
    arguments = [
        f"--checkpoint={checkpoint}", "--threads=1", "--max-body-bytes=1000000",
        "--max-concurrent-bytes=2000000", "--max-concurrent-requests=9", "--body-seconds=50",
    ]  # fmt: skip
    with (
        ServerProcess(arguments, log=tmp_path / "log") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
        ExitStack() as held,
    ):
        for _ in range(8):
            held.enter_context(_upload(server, framing))
        wait_for(client, "flowmo_requests_admitted", 8)
        assert client.post("/v1/tokenize", content=PNG, headers=RAW).status_code == 200
        held.enter_context(_upload(server, framing))
        wait_for(client, "flowmo_requests_admitted", 9)
        full = client.post("/v1/tokenize", content=PNG, headers=RAW)
        # The first of them must have sent everything before this.
        assert (full.status_code, full.json()["code"]) == (429, "queue-full")
        assert 5 < int(full.headers["Retry-After"]) <= 50
