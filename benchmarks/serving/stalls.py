"""What holds the event loop up inside the server: collections of garbage, and bodies that are read.

    python -m benchmarks.serving.stalls --out benchmarks/results/serving/stalls.json

Both in seconds of a processor that the loop's thread takes at a stretch, so that other work of the
machine does not count: a full collection before and after what was loaded has been set aside
(``service/garbage.py``), and a turn of the loop while 64 clients upload 4 MiB each, with as many
connections read in a turn as there are and with as many as the server reads
(``service/http/reading_turns.py``).
"""

import argparse
import asyncio
import gc
import multiprocessing
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from flowmo.service.garbage import set_aside
from flowmo.service.loader import open_models
from flowmo.service.settings import Settings
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics
from flowmo.training.json_report import write_json

_ROOT = Path(__file__).resolve().parents[2]
_CLIENTS = 64
_BYTES = 4 * 2**20
_ROUNDS = 3


def collections() -> dict[str, Any]:
    """A full collection in a process that has loaded what a server of the demo model has."""
    from flowmo.service.http.app import create_app

    metrics = Metrics(PrometheusInstruments())
    settings = Settings(checkpoint=str(_ROOT / "checkpoints" / "tiny"), device="cpu", threads=1)
    app = create_app(open_models(settings, metrics.engines), metrics, settings)
    gc.collect()
    found: dict[str, Any] = {"objects": len(gc.get_objects()), "before_ms": _collection()}
    set_aside()
    found |= {"after_ms": _collection(), "objects_after": len(gc.get_objects())}
    del app
    gc.unfreeze()
    return found


def _collection() -> float:
    begin = time.thread_time()
    gc.collect()
    return round((time.thread_time() - begin) * 1e3, 2)


async def _read_whole(_: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    length = (b"content-length", b"0")
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": b""})


def _upload(port: int) -> None:
    data = b"x" * _BYTES
    head = f"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: {_BYTES}\r\n\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CLIENTS)]

    def one(connection: socket.socket) -> None:
        connection.sendall(head + data)
        connection.recv(1024)
        connection.close()

    threads = [threading.Thread(target=one, args=(one_of,)) for one_of in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def _turns(reads: int) -> list[float]:
    """The processor time of each turn of the loop while the clients upload, in milliseconds."""
    import uvicorn

    from flowmo.service.http.connections import ConnectionLimits, limited_protocol
    from flowmo.service.http.reading_turns import ReadingTurns

    limits = ConnectionLimits(header_bytes=32768, header_seconds=60.0, send_seconds=60.0)
    protocol: Any = limited_protocol(limits)
    protocol._turns = ReadingTurns(reads)
    found: list[float] = []
    loop, last = asyncio.get_running_loop(), time.thread_time()

    def turn() -> None:
        nonlocal last
        now = time.thread_time()
        found.append((now - last) * 1e3)
        last = now
        loop.call_later(0.0005, turn)

    with socket.create_server(("127.0.0.1", 0), backlog=_CLIENTS) as listener:
        config = uvicorn.Config(_read_whole, http=protocol, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        # Forked: another would first import all this again.
        clients = multiprocessing.get_context("fork").Process(
            target=_upload, args=(listener.getsockname()[1],)
        )
        clients.start()
        turn()
        await asyncio.to_thread(clients.join)
        server.should_exit = True
        await serving
    return found


def turns(reads: int) -> dict[str, float]:
    """The longest turn and the ninth longest, of the round in the middle of some."""
    import uvicorn

    made = []
    for _ in range(_ROUNDS):
        with asyncio.Runner(loop_factory=uvicorn.Config(_read_whole).get_loop_factory()) as runner:
            made.append(sorted(runner.run(_turns(reads)), reverse=True))
    middle = sorted(made, key=lambda one: one[8])[len(made) // 2]
    return {"longest_ms": round(middle[0], 2), "ninth_longest_ms": round(middle[8], 2)}


def main(arguments: list[str]) -> None:
    """Measure, and write what was found."""
    # Here and above: uvicorn is not on every machine that imports the benchmarks.
    from flowmo.service.http.reading_turns import READS_A_TURN

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {"environment": environment(), "load": round(os.getloadavg()[0], 1)}
    report["uploads"] = {str(reads): turns(reads) for reads in (_CLIENTS, READS_A_TURN)}
    write_json(options.out, report)  # the rest loads a model first
    report["collection"] = collections()
    write_json(options.out, report)


if __name__ == "__main__":
    main(sys.argv[1:])
