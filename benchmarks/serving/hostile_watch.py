"""What everybody else sees of a server under attack, and what it takes, for :mod:`.hostile`."""

import multiprocessing
import os
import re
import threading
import time
from pathlib import Path
from typing import Any, Self

import httpx

from flowmo.cli.server_process import ServerProcess

_PAUSE = 0.025


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
            time.sleep(_PAUSE)


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
