"""Pictures that take long to read: nobody else waits for them, and they are ended."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.imaging.reading import CorruptImageError, ImageTooLargeError, UnsupportedImageError
from flowmo.imaging.worker import SquareRequest, WorkerProcess
from flowmo.service.engine.calls import Call
from flowmo.service.errors import DeadlineExceededError
from flowmo.service.http.image_readers import ImageReaders
from flowmo.service.http.stage_clock import StageClock
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics
from tests.service.pictures import as_file, gradient
from tests.service.probes import value
from tests.service.runners import until

PNG = as_file(gradient())
JPEG = as_file(gradient(), "JPEG")
# Empty comments, each a few microseconds' work: a quarter of a minute all together.
SLOW = JPEG[:2] + b"\xff\xfe\x00\x02" * 7_500_000 + JPEG[2:]
REQUEST = SquareRequest(max_pixels=10**6, size=32, fit="crop")


@pytest.fixture
def clock() -> StageClock:
    return StageClock(Metrics(PrometheusInstruments()), "nano")


# --- the process --------------------------------------------------------------------------------


def test_a_process_reads_one_after_the_other_and_says_what_is_wrong() -> None:
    worker = WorkerProcess()
    try:
        first, second = worker.read(PNG, REQUEST), worker.read(JPEG, REQUEST)
        assert (first.format, second.format) == ("PNG", "JPEG")
        assert first.fitted.pixels.shape == (32, 32, 3)
        assert first.fitted.report.source == second.fitted.report.source
        with pytest.raises(UnsupportedImageError, match="no image of a known format"):
            worker.read(b"hello", REQUEST)
        with pytest.raises(ImageTooLargeError, match="at most 4 are accepted"):
            worker.read(PNG, SquareRequest(max_pixels=4, size=32, fit="crop"))
        assert worker.alive
    finally:
        worker.end()
    assert not worker.alive


def test_a_process_that_is_ended_ends_the_wait() -> None:
    worker = WorkerProcess()
    threading.Timer(0.5, worker.kill).start()
    with pytest.raises(CorruptImageError, match="did not survive"):
        worker.read(SLOW, REQUEST)
    assert not worker.alive


# --- as many as there may be --------------------------------------------------------------------


def test_what_takes_too_long_is_ended_and_the_next_one_is_read(clock: StageClock) -> None:
    async def main() -> None:
        readers = ImageReaders(1, seconds=2)
        with pytest.raises(ImageTooLargeError, match="more than 2 s"):
            await readers.read(SLOW, REQUEST, clock, Call())
        assert (await readers.read(PNG, REQUEST, clock, Call())).format == "PNG"
        await readers.close()

    asyncio.run(main())


def test_a_deadline_ends_the_wait_for_a_slot_too(clock: StageClock) -> None:
    async def main() -> None:
        readers = ImageReaders(1, seconds=60)
        slow = asyncio.create_task(readers.read(SLOW, REQUEST, clock, Call()))
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceededError):
            await readers.read(PNG, REQUEST, clock, Call(deadline=time.monotonic() + 0.2))
        assert not slow.done()
        slow.cancel()
        # Nobody waits for it: its process is ended, and the slot is free long before it was read.
        assert (await readers.read(PNG, REQUEST, clock, Call())).format == "PNG"
        await readers.close()

    asyncio.run(main())


def test_what_nobody_waits_for_is_not_begun(
    clock: StageClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bytes] = []
    gate = threading.Event()

    def read(_: WorkerProcess, data: bytes, request: SquareRequest) -> None:
        begun.append(data)
        assert gate.wait(60)

    async def main() -> None:
        monkeypatch.setattr(WorkerProcess, "read", read)
        readers = ImageReaders(1, seconds=60)
        tasks = [
            asyncio.create_task(readers.read(name, REQUEST, clock, Call()))
            for name in (b"first", b"left", b"last")
        ]
        await until(lambda: bool(begun))
        tasks[1].cancel()
        gate.set()
        await asyncio.gather(tasks[0], tasks[2])
        assert begun == [b"first", b"last"]
        await readers.close()

    asyncio.run(main())


# --- a real server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("narrow") / "server.log"
    arguments = [f"--checkpoint={checkpoint}", "--threads=1", "--image-threads=1"]
    with ServerProcess([*arguments, "--image-seconds=100"], log=log) as process:
        yield process
    assert "Traceback" not in log.read_text()


def _begin(server: ServerProcess, data: bytes) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(
        f"POST /v1/tokenize?fit=crop HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return connection


def test_pictures_whose_clients_have_left_hold_up_nobody(narrow: ServerProcess) -> None:
    with (
        httpx.Client(base_url=narrow.url, timeout=120) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        connections = list(pool.map(lambda _: _begin(narrow, SLOW), range(4)))
        headers = {"Content-Type": "image/png"}
        labels = {"model": "nano", "stage": "decode_image"}
        hurried = headers | {"X-Request-Timeout-Seconds": "1"}
        # The first may be read before all of the slow ones have arrived.
        answers = (client.post("/v1/tokenize", content=PNG, headers=hurried) for _ in range(60))
        late = next(answer for answer in answers if answer.status_code != 200)
        assert (late.status_code, late.json()["code"]) == (504, "deadline-exceeded")
        before = value(client, "flowmo_stage_duration_seconds_count", **labels)
        for connection in connections:
            connection.close()
        # One of them after the other would take a minute, of which this request has some.
        answer = client.post(
            "/v1/tokenize", content=PNG, headers=headers | {"X-Request-Timeout-Seconds": "12"}
        )
        assert answer.status_code == 200, answer.text
        assert value(client, "flowmo_stage_duration_seconds_count", **labels) == before + 1
