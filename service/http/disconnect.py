"""Work that ends when the client closes its connection, or cancels its request."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from flowmo.service.errors import ClientLeftError
from flowmo.service.http.cancellation import Cancellation

# Where an admitted request's scope has its :class:`Cancellation`.
CANCELLATION = "cancellation"

T = TypeVar("T")


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Wait for ``work``, and cancel it when the client leaves or has cancelled the request.

    Args:
        request: The request that asked for the work; its body must have been read.
        work: The computation that nobody needs once the client has left.

    Returns:
        The work's result.

    Raises:
        ClientLeftError: The client closed the connection first.
        RequestCancelledError: The client cancelled the request first.
    """
    # What was not admitted, nobody can cancel.
    cancellation: Cancellation = request.scope.get("state", {}).get(CANCELLATION) or Cancellation()
    task = asyncio.ensure_future(cancellation.until_cancelled(work))
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
