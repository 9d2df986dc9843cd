"""A gateway's connections to the engine process, and what it knows of it."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path

from flowmo.service.errors import NotReadyError
from flowmo.service.workers.frames import Streams
from flowmo.service.workers.messages import ModelStatus

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS = 0.05
# An engine that has not come back after so many times its usual start is not coming.
_AWAY_STARTS = 5.0
_AWAY_SECONDS = 120.0


class EngineLink:
    """The engine process as one gateway sees it; used from its event loop only.

    Args:
        path: The socket that the engine process listens on.

    Attributes:
        models: The models' states as they were told last; empty before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.models: tuple[ModelStatus, ...] = ()
        self._told_at = -math.inf
        self._start_seconds = 1.0
        self._here = asyncio.Event()
        self._lost_at = time.monotonic()
        self._idle: list[Streams] = []
        self._generation = 0
        self._following: asyncio.Task[None] | None = None

    @property
    def here(self) -> bool:
        """Whether the engine process is there."""
        return self._here.is_set()

    @property
    def told_seconds(self) -> float:
        """The seconds since the models' states were told."""
        return time.monotonic() - self._told_at

    @property
    def complaint(self) -> str | None:
        """Why the engine process must be taken for gone for good; None while it need not."""
        away = 0.0 if self.here else time.monotonic() - self._lost_at
        if away > max(_AWAY_SECONDS, _AWAY_STARTS * self._start_seconds):
            return f"the engine process has been away for {away:.0f} s"
        return None

    async def start(self) -> None:
        """Connect, and wait until the engine process has said what it serves."""
        self._following = asyncio.create_task(self._follow())
        await self._here.wait()

    async def close(self) -> None:
        """End all connections."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        self._drop_idle()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Streams]:
        """A connection for one call; it is ended with the block unless the call was answered.

        Raises:
            NotReadyError: The engine process is away, or died in the block.
        """
        if not self.here:
            raise self._away("the engine process is being started again")
        generation = self._generation
        try:
            streams = self._idle.pop() if self._idle else await Streams.open(self._path)
        except OSError:
            raise self._away("the engine process is being started again") from None
        answered = False
        try:
            yield streams
            answered = True
        except ConnectionError:
            raise self._away("the engine process died with this work inside") from None
        finally:
            if answered and self.here and generation == self._generation:
                self._idle.append(streams)
            else:
                streams.abort()

    def _away(self, text: str) -> NotReadyError:
        # As long as a start usually takes, less what has passed of it.
        passed = 0.0 if self.here else time.monotonic() - self._lost_at
        return NotReadyError(text, retry_after=max(1, math.ceil(self._start_seconds - passed)))

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                streams = await Streams.open(self._path)
                try:
                    streams.send({"op": "status"})
                    while (frame := await streams.read()) is not None:
                        told = frame.head["models"]
                        known = [one.info for one in self.models]
                        self.models = tuple(map(ModelStatus.from_dict, told, known or repeat(None)))
                        self._start_seconds = frame.head["start"]
                        self._told_at = time.monotonic()
                        self._here.set()
                finally:
                    streams.abort()
            if self.here:
                self._lost()
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _lost(self) -> None:
        logger.error("the engine process is away")
        self._here.clear()
        self._lost_at = time.monotonic()
        self._drop_idle()

    def _drop_idle(self) -> None:
        self._generation += 1
        while self._idle:
            self._idle.pop().abort()
