"""Work that ends when the client closes its connection."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from flowmo.service.errors import ClientLeftError

T = TypeVar("T")


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Wait for ``work``, and cancel it when the client leaves.

    Args:
        request: The request that asked for the work; its body must have been read.
        work: The computation that nobody needs once the client has left.

    Returns:
        The work's result.

    Raises:
        ClientLeftError: The client closed the connection first.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError("the client closed the connection before the answer")
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
