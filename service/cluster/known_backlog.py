"""What a gateway knows of the work that waits in replicas, for its own Retry-After."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

logger = logging.getLogger(__name__)

# Seconds between the questions, and for which one may take.
PERIOD = 1.0
PATIENCE = 5.0


class KnownBacklog:
    """Asks the replicas of one deployment again and again how much work they have.

    Args:
        ask: Gives the seconds of work in each replica.
        clock: Gives the time, in seconds.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Sequence[float]]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._clock = ask, clock
        self._said, self._at = 0.0, clock()
        self._task: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """The seconds until the replicas would have done what they have, on average.

        What they said last, less the time since.
        """
        return max(0.0, self._said - (self._clock() - self._at))

    async def learn(self) -> None:
        """Ask once; what is known stays when nobody answers."""
        try:
            async with asyncio.timeout(PATIENCE):
                said = await self._ask()
        except Exception as error:  # noqa: BLE001  (replicas come and go)
            logger.debug("no replica said how much work it has: %r", error)
            return
        if said:
            self._said, self._at = sum(said) / len(said), self._clock()

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.create_task(self._learn_again_and_again())

    async def _learn_again_and_again(self) -> None:
        while True:
            await self.learn()
            await asyncio.sleep(PERIOD)

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
