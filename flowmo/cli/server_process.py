"""``flowmo serve`` as a child process: for the demo, tests and benchmarks."""

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

ANNOUNCEMENT = "listening on "


class ServerError(Exception):
    """The server did not start, or ended by itself."""


class ServerProcess:
    """A server on a free port of this machine, as a context manager.

    Args:
        arguments: Further arguments of ``flowmo serve``.
        log: The file that gets the server's log.
        environment: Variables of the process; this process' own by default.
        start_seconds: The longest wait until it is ready.

    Attributes:
        url: The address that it listens on, once entered.
    """

    def __init__(
        self,
        arguments: Sequence[str] = (),
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        start_seconds: float = 120.0,
    ) -> None:
        self._command = [sys.executable, "-m", "flowmo", "serve", "--port", "0", *arguments]
        self._log = log
        self._environment = environment
        self._start_seconds = start_seconds
        self.url = ""

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # Stdout carries the one line with the address; all else goes to the log.
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def wait(self, seconds: float = 45.0) -> int:
        """Wait until it ends by itself, and give its exit status.

        Raises:
            subprocess.TimeoutExpired: it goes on.
        """
        return self._process.wait(seconds)

    def stop(self, seconds: float = 45.0) -> int:
        """Ask it to finish, and end it if it does not.

        Args:
            seconds: longest wait.

        Returns:
            The exit status; negative for a signal.
        """
        if self._process.poll() is None:
            self._process.terminate()
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status

    def _wait(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        self.url = self._announced_url()
        while True:
            try:
                answer = httpx.get(f"{self.url}/readyz", timeout=5.0, trust_env=False)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == httpx.codes.OK:
                return
            is_failed = answer is not None and "engine-stopped" in answer.text
            if is_failed or self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"the server did not become ready:\n{self._tail()}")
            time.sleep(0.1)

    def _announced_url(self) -> str:
        assert self._process.stdout is not None
        # A server that hangs before it announces itself would block the reading below for ever.
        watchdog = threading.Timer(self._start_seconds, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                _, found, rest = line.decode().partition(ANNOUNCEMENT)
                if found:
                    return rest.split()[0]
        finally:
            watchdog.cancel()
        raise ServerError(f"the server did not start:\n{self._tail()}")

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-12:]) or "(its log is empty)"
