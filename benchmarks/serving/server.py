"""A server process to be measured."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

Discipline = Literal["step", "request", "single"]
_ANNOUNCED = re.compile(r"listening on (http://\S+)")
_START_SECONDS = 120.0
_STOP_SECONDS = 45.0


class ServerFailedError(Exception):
    """The server did not start, or ended by itself."""


class Server:
    """``flowmo serve`` with its default settings, as a context manager.

    Settings in the caller's environment (``FLOWMO_…``) do not reach it.

    Args:
        checkpoint: what it serves.
        batching: how it forms batches.
        threads: of one operation of torch.
        log: file that gets its log.

    Attributes:
        batching: as given.
        url: where it listens, once entered.
    """

    def __init__(self, checkpoint: Path, *, batching: Discipline, threads: int, log: Path) -> None:
        self.batching: Discipline = batching
        self.url = ""
        self._log = log
        arguments = [f"--checkpoint={checkpoint}", f"--threads={threads}", "--port=0"]
        self._command = [sys.executable, "-m", "flowmo", "serve", *arguments]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLOWMO_")}
        self._environment = inherited | {
            "FLOWMO_BATCHING": batching,
            "FLOWMO_CACHE_BYTES": "0",  # what is asked for twice is computed twice
        }

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )
        try:
            self.url = self._announced()
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def peak_bytes(self) -> int | None:
        """The most memory it has had resident so far; None where the system does not say."""
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            return None
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        return None if found is None else int(found[1]) * 1024

    def _announced(self) -> str:
        assert self._process.stdout is not None
        # A server that hangs before it announces itself would block the reading for ever.
        watchdog = threading.Timer(_START_SECONDS, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                if found := _ANNOUNCED.search(line.decode()):
                    return found[1]
        finally:
            watchdog.cancel()
        raise ServerFailedError(f"the server did not start:\n{self._tail()}")

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as client:
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    if client.get("/readyz").is_success:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        raise ServerFailedError(f"the server did not become ready:\n{self._tail()}")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-12:]) or "(its log is empty)"
