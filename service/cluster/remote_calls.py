"""Work that replicas do: tried again when one dies, given up at its deadline."""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

from flowmo.service.engine.calls import Call
from flowmo.service.engine.calls_inside import CallsInside
from flowmo.service.engine.messages import RemoteError
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.errors import (
    DeadlineExceededError,
    EngineStoppedError,
    OtherWeightsError,
    QueueFullError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How often a piece of work is given to another replica when its own has died. Encoding and seeded
# decoding give the same result again, so nothing is done twice to any effect.
RETRIES = 2
# Seconds between the tries of work that waits for a replica with its weights.
UPDATE_PAUSE = 0.1
# How many replicas are asked to do a piece of work that they may refuse: one that refuses has too
# much work of its own, which others need not have.
TRIES = 3
_DEAD = (RayActorError, ReplicaUnavailableError, ObjectLostError)


class RemoteCalls(CallsInside):
    """The work that one gateway has given to the replicas of one model.

    Args:
        info: The model as its replicas described it when the gateway started.
        ask: Asks a replica what its model is now.
        backlog_seconds: Gives the seconds until the replicas would have done what they have.

    Attributes:
        info: The model as a replica described it last.
    """

    def __init__(
        self,
        info: ModelInfo,
        ask: Callable[[], Awaitable[ModelInfo]],
        backlog_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__()
        self.info = info
        self._ask = ask
        self._backlog_seconds = backlog_seconds
        self._asking: asyncio.Task[None] | None = None

    def ask_again(self) -> None:
        """Learn in the background what the model is now: a rolling update is under way."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._learn())

    async def _learn(self) -> None:
        try:
            self.info = await self._ask()
        except Exception as error:  # noqa: BLE001  (the next replica that is asked may answer)
            logger.warning("the decoder did not say what it is: %s", error)

    async def until_done(
        self,
        once: Callable[[frozenset[str]], Awaitable[T | RemoteError]],
        call: Call,
        patience: float = 0.0,
    ) -> T:
        """Have a piece of work done by whichever replica can.

        Args:
            once: Asks one replica to do it, rather one that is not among those that have refused.
            call: The deadline at which the work is given up.
            patience: The seconds to wait, in a rolling update, for a replica with the weights that
                the work is for.

        Raises:
            DeadlineExceededError: No replica had done it by the deadline.
            QueueFullError: No replica takes more work.
            EngineStoppedError: Every replica that tried has died.
            Exception: What the replica itself refused it with.
        """
        self.inside += 1
        until = time.monotonic() + patience
        try:
            async with asyncio.timeout(
                None if math.isinf(call.deadline) else max(0.0, call.remaining)
            ):
                result = await _by_any(once)
                # In a rolling update, replicas of these weights may be there, or come.
                while _is_of_other_weights(result) and time.monotonic() < until:
                    self.ask_again()
                    await asyncio.sleep(UPDATE_PAUSE)
                    result = await _by_any(once)
        except TimeoutError:
            raise DeadlineExceededError(
                "the replicas had not done the work by the deadline"
            ) from None
        except BackPressureError:
            seconds = self._backlog_seconds()
            raise QueueFullError(
                f"the replicas' queue is full, with about {seconds:.1f} s of work",
                retry_after=max(1, math.ceil(seconds)),
            ) from None
        except (*_DEAD, DeploymentUnavailableError) as error:
            logger.error("no replica did the work", exc_info=error)  # noqa: TRY400
            raise EngineStoppedError(
                "the replicas that did the work have died; try again"
            ) from None
        finally:
            self.inside -= 1
        if isinstance(result, RemoteError):
            raise result.error
        return result


def _is_of_other_weights(result: object) -> bool:
    return isinstance(result, RemoteError) and isinstance(result.error, OtherWeightsError)


async def _by_any(once: Callable[[frozenset[str]], Awaitable[T | RemoteError]]) -> T | RemoteError:
    """Ask one replica after the other until one does not refuse; else the least of the refusals."""
    refusals: list[RemoteError] = []
    while True:
        refused_by = frozenset(refusal.replica for refusal in refusals)
        result = await _retried(partial(once, refused_by))
        if not isinstance(result, RemoteError) or not isinstance(result.error, UnavailableError):
            return result
        refusals.append(result)
        # With one replica, the second try is answered by the first again.
        if len(refusals) == TRIES or result.replica in refused_by:
            return min(refusals, key=_retry_after)


def _retry_after(refusal: RemoteError) -> int:
    assert isinstance(refusal.error, UnavailableError)
    return refusal.error.retry_after


async def _retried(once: Callable[[], Awaitable[T]]) -> T:
    for attempt in itertools.count():
        try:
            return await once()
        except _DEAD as error:
            if attempt == RETRIES:
                raise
            logger.warning("a replica has died (%s); another does its work", type(error).__name__)
    raise AssertionError
