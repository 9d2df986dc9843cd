"""Work that several wait for: as urgent as the most demanding of them, and for as long."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from flowmo.service.engine.calls import Call

Listener = Callable[[Call], None]


def most_demanding(one: Call, other: Call) -> Call:
    """A call that serves two: the later deadline of both, and the more urgent priority."""
    both = {one.priority, other.priority}
    return replace(
        one,
        deadline=max(one.deadline, other.deadline),
        priority="interactive" if "interactive" in both else "batch",
    )


class SharedCall:
    """The call of a piece of work that more may come to wait for; used from one event loop.

    Guaranteed to each who joins: from then on the work is at least as urgent as theirs, and is not
    given up before their deadline. What does the work listens, and follows.

    Args:
        first: The call of the one who begins the work.
    """

    def __init__(self, first: Call) -> None:
        self._call = replace(first, shared=self)
        self._listeners: list[Listener] = []

    @property
    def call(self) -> Call:
        """The most demanding call so far."""
        return self._call

    def join(self, call: Call) -> None:
        """Have the work serve one more, and tell who does it if that changes anything."""
        if (raised := most_demanding(self._call, call)) != self._call:
            self._call = raised
            for listener in tuple(self._listeners):
                listener(raised)

    @contextmanager
    def heard_by(self, listener: Listener) -> Iterator[None]:
        """Have a listener hear of every more demanding call while the block runs."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)


@contextmanager
def following(call: Call, listener: Listener) -> Iterator[None]:
    """Have a listener hear while the block runs when more come to wait for a call's work."""
    if call.shared is None:
        yield
        return
    with call.shared.heard_by(listener):
        if call.shared.call != call:  # somebody has joined since
            listener(call.shared.call)
        yield


@asynccontextmanager
async def until_deadline(call: Call) -> AsyncIterator[None]:
    """Give the block up at the call's deadline, or at the last one of those that come to share it.

    Raises:
        TimeoutError: The block was not done by then.
    """
    loop = asyncio.get_running_loop()

    def when(call: Call) -> float | None:
        return None if math.isinf(call.deadline) else loop.time() + call.remaining

    async with asyncio.timeout_at(when(call)) as limit:

        def follow(raised: Call) -> None:
            with contextlib.suppress(RuntimeError):  # it is just being given up
                limit.reschedule(when(raised))

        with following(call, follow):
            yield
