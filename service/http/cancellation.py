"""Requests that their senders give up by name, from another connection."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from flowmo.service.errors import RequestCancelledError

T = TypeVar("T")

# How many cancelled requests are remembered, so that whoever asks again is told the same.
_REMEMBERED = 4096


class Cancellation:
    """Whether one request has been given up by its sender."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    def cancel(self) -> None:
        """Give the request up; once is as often as twice."""
        self._asked.set()

    async def until_cancelled(self, work: Awaitable[T]) -> T:
        """Wait for ``work``, and cancel it when the request is given up.

        Raises:
            RequestCancelledError: The request was given up first.
            Exception: Whatever ``work`` raised.
        """
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise RequestCancelledError("its sender has cancelled it")
            return task.result()
        finally:
            task.cancel()
            asked.cancel()


class InsideRequests:
    """The requests that are inside, by the key that sent them and their ids.

    Used from the event loop's thread only. An id is its key's own: what others sent under the same
    id is not found.
    """

    def __init__(self) -> None:
        self._inside: dict[tuple[str | None, str], list[Cancellation]] = {}
        self._cancelled: OrderedDict[tuple[str | None, str], None] = OrderedDict()

    @contextmanager
    def enter(self, key: str | None, request_id: str) -> Iterator[Cancellation]:
        """Have a request found while the block runs.

        Args:
            key: The name of the API key that sent it; None where no key is needed.
            request_id: The request's id.
        """
        cancellation = Cancellation()
        name = (key, request_id)
        self._inside.setdefault(name, []).append(cancellation)
        try:
            yield cancellation
        finally:
            here = self._inside[name]
            here.remove(cancellation)
            if not here:
                del self._inside[name]

    def cancel(self, key: str | None, request_id: str) -> int | None:
        """Cancel the requests of an id.

        Args:
            key: The name of the API key that asks for it.
            request_id: The id of one or, if the client uses it so, several requests.

        Returns:
            How many were inside and have been cancelled now; None if none was, or ever has been
            cancelled, as far as is remembered.
        """
        name = (key, request_id)
        here = self._inside.get(name, ())
        if not here and name not in self._cancelled:
            return None
        for cancellation in here:
            cancellation.cancel()
        self._cancelled[name] = None
        self._cancelled.move_to_end(name)
        while len(self._cancelled) > _REMEMBERED:
            self._cancelled.popitem(last=False)
        return len(here)


# Cancels the requests of a key and an id wherever they are inside; None if they are nowhere.
CancelAnywhere = Callable[[str | None, str], Awaitable[int | None]]


def counted_together(found: list[int | None]) -> int | None:
    """What several processes answered to one cancellation, as one answer."""
    known = [count for count in found if count is not None]
    return sum(known) if known else None
