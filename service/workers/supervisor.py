"""Starts the engine process and the gateways, and starts anew whatever dies of them."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowmo.model.errors import FlowMoError
from flowmo.service.settings import Settings
from flowmo.service.workers.child import ENGINE, Orders, gateway_name
from flowmo.service.workers.metrics import forget_process

logger = logging.getLogger(__name__)

_MODULES = "flowmo.service.workers"
# What a process may take to end, beyond the time for its requests, before it is killed.
_MARGIN_SECONDS = 10.0
# A process that has lived so long did not die of how it starts.
_SETTLED_SECONDS = 60.0
_LONGEST_PAUSE = 30.0
# An engine process that has said nothing for so long hangs; it should every second.
SILENT_SECONDS = 60.0


class StartError(FlowMoError):
    """The server cannot start; why is in the message, or in the log."""


@dataclass(eq=False, slots=True)
class _Child:
    """A process with a name, and its successors when it dies."""

    orders: Orders
    module: str
    process: asyncio.subprocess.Process | None = None
    told: dict[str, Any] = field(default_factory=dict)

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """One server of several processes, from start to graceful end.

    Args:
        settings: The server's settings.
        listeners: A bound socket for each gateway, all of one port. They are kept open here, so
            that what waits to be accepted when a gateway dies is accepted by its successor.
        announce: Called once, with what the engine process says of its models, when gateways
            answer.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        announce: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self._settings, self._listeners, self._announce = settings, listeners, announce
        self._ending = asyncio.Event()
        self._changed = asyncio.Event()
        self._children: list[_Child] = []
        self._was_ready = False

    async def run(self) -> int:
        """Serve until ^C or SIGTERM; what has begun is finished.

        Returns:
            The number of the signal that ended it.

        Raises:
            StartError: A process died before the server was ready for the first time.
        """
        loop = asyncio.get_running_loop()
        got = signal.SIGTERM

        def end(number: signal.Signals) -> None:
            nonlocal got
            got = number
            self._ending.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        with tempfile.TemporaryDirectory(prefix="flowmo-") as folder:
            self._children = self._plan(Path(folder))
            keeping = [asyncio.create_task(self._keep(child)) for child in self._children]
            announcing = asyncio.create_task(self._announce_once())
            ending = asyncio.create_task(self._ending.wait())
            try:
                # A keeper ends by an error alone: the server cannot start.
                await asyncio.wait({*keeping, ending}, return_when=asyncio.FIRST_COMPLETED)
                for one in keeping:
                    if one.done():
                        one.result()
            finally:
                announcing.cancel()
                await self._end()
                await asyncio.gather(*keeping, return_exceptions=True)
        return got

    def _plan(self, folder: Path) -> list[_Child]:
        (folder / "metrics").mkdir()
        settings = self._settings.model_dump(mode="json")

        def child(module: str, name: str, number: int, listener: int) -> _Child:
            orders = Orders(
                name=name,
                folder=str(folder),
                number=number,
                listener=listener,
                settings=settings,
            )
            return _Child(orders, f"{_MODULES}.{module}")

        gateways = [
            child("gateway_process", gateway_name(number), number, listener.fileno())
            for number, listener in enumerate(self._listeners)
        ]
        return [child("engine_process", ENGINE, 0, -1), *gateways]

    async def _announce_once(self) -> None:
        engine, *gateways = self._children
        while not all(gateway.told.get("listening") for gateway in gateways):
            self._changed.clear()
            await self._changed.wait()
        self._announce(engine.told["loaded"])

    def _reload(self) -> None:
        """Have models and keys read again by those who have them."""
        for child in self._children:
            if child.told.keys() & {"loaded", "listening"}:
                child.signal(signal.SIGHUP)

    async def _keep(self, child: _Child) -> None:
        """Run a process, and another one in its place when it ends, until the server does."""
        name = child.orders.name
        early = 0
        while not self._ending.is_set():
            begin = time.monotonic()
            status = await self._run(child)
            forget_process(child.orders.metrics, name)
            if self._ending.is_set():
                return
            if not self._was_ready:
                raise StartError(
                    child.told.get("error")
                    or f"the process {name} ended with status {status} before the server was "
                    f"ready; its log says why"
                )
            reason = child.told.get("error", "")
            logger.error(
                "%s ended with status %d; another one takes its place%s",
                name, status, reason and f": {reason}",
            )  # fmt: skip
            early = 0 if time.monotonic() - begin > _SETTLED_SECONDS else early + 1
            if early > 1:  # at once the first time, and then not so fast
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(_LONGEST_PAUSE, 2.0 ** (early - 2))):
                        await self._ending.wait()

    async def _run(self, child: _Child) -> int:
        child.told.clear()
        process = child.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", child.module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[] if child.orders.listener < 0 else [child.orders.listener],
            process_group=0,  # ^C is for the supervisor, who ends the others in their order
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(child.orders.to_line())
            await process.stdin.drain()
        while line := await self._line(child, process.stdout):
            child.told |= json.loads(line)
            engine, *gateways = self._children
            if engine.told.get("ready") and all(one.told.get("listening") for one in gateways):
                self._was_ready = True
            self._changed.set()
        return await process.wait()

    async def _line(self, child: _Child, output: asyncio.StreamReader) -> bytes:
        """What a process says next; one that should go on saying something and does not is killed.

        A device that hangs with the interpreter's lock leaves nobody who could notice.
        """
        try:
            async with asyncio.timeout(SILENT_SECONDS if "beat" in child.told else None):
                return await output.readline()
        except TimeoutError:
            logger.error("%s does not answer any more; it is killed", child.orders.name)  # noqa: TRY400
            child.signal(signal.SIGKILL)
            return b""

    async def _end(self) -> None:
        """End the gateways, which finish what they have, and then the engine process."""
        self._ending.set()
        for listener in self._listeners:  # so that whoever comes now is refused
            listener.close()
        engine, *gateways = self._children
        for group in (gateways, [engine]):
            for child in group:
                child.signal(signal.SIGTERM)
            processes = [child.process for child in group if child.process is not None]
            waiting = [asyncio.create_task(process.wait()) for process in processes]
            if waiting:
                seconds = self._settings.drain_seconds + _MARGIN_SECONDS
                await asyncio.wait(waiting, timeout=seconds)
                for child in group:
                    child.signal(signal.SIGKILL)
                await asyncio.wait(waiting)


def serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    announce: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Serve with several processes until ^C or SIGTERM; see :class:`Supervisor`.

    Raises:
        StartError: The server cannot start.
    """

    async def run() -> int:
        return await Supervisor(settings, listeners, announce).run()

    number = asyncio.run(run())
    logger.info("Finished server process [%d]", os.getpid())
    if number == signal.SIGTERM:  # as one process ends by it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
