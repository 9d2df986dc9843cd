"""The work that a gateway has given to engines in other processes."""

import asyncio
import contextlib


class CallsInside:
    """How much of it there is, until the gateway ends.

    Attributes:
        inside: The number of pictures that this gateway waits for.
        closed: Whether the gateway has given up its engines.
    """

    def __init__(self) -> None:
        self.inside = 0
        self.closed = False

    async def close(self, seconds: float) -> None:
        """Wait for the work inside, for at most ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.inside:  # noqa: ASYNC110  (once, at the end)
                    await asyncio.sleep(0.02)
        self.closed = True
