"""What gateways of one machine ask each other: to cancel a request that came to another."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from flowmo.service.http.cancellation import CancelAnywhere, counted_together
from flowmo.service.workers.frames import Streams, listen

# A gateway that does not answer has nothing to cancel, or is going anyway.
_SECONDS = 5.0

Cancel = Callable[[str | None, str], int | None]


async def answer_peers(path: Path, cancel: Cancel) -> asyncio.Server:
    """Cancel here what other gateways are asked to cancel.

    Args:
        path: The socket of this gateway.
        cancel: Cancels what is inside here; see :meth:`InsideRequests.cancel`.
    """

    async def serve(streams: Streams) -> None:
        while (frame := await streams.read()) is not None:
            streams.send({"count": cancel(frame.head["key"], frame.head["id"])})
            await streams.drain()

    return await listen(path, serve)


def cancel_at_peers(paths: list[Path]) -> CancelAnywhere:
    """Make what cancels a request wherever it is.

    Args:
        paths: The sockets of the other gateways.
    """

    async def one(path: Path, key: str | None, request_id: str) -> int | None:
        try:
            async with asyncio.timeout(_SECONDS):
                streams = await Streams.open(path)
                try:
                    streams.send({"key": key, "id": request_id})
                    frame = await streams.read()
                finally:
                    streams.abort()
        except (OSError, TimeoutError):
            return None
        count: int | None = None if frame is None else frame.head["count"]
        return count

    async def everywhere(key: str | None, request_id: str) -> int | None:
        asked = await asyncio.gather(*(one(path, key, request_id) for path in paths))
        return counted_together(list(asked))

    return everywhere
