"""Engines on replicas, as the gateway sees them."""

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

from flowmo.imaging.reading import Pixels
from flowmo.model.tokens import Tokens
from flowmo.service.cluster.messages import CallMessage, Refusal
from flowmo.service.engine.calls import Call, Decoded, DecodeOptions, Encoded, Progress, Watch
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import Half
from flowmo.service.errors import (
    DeadlineExceededError,
    EngineStoppedError,
    OtherWeightsError,
    QueueFullError,
)

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

    Handle = DeploymentHandle[Any]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How often a piece of work is given to another replica when its own has died. Encoding and seeded
# decoding give the same result again, so nothing is done twice to any effect.
RETRIES = 2
# How often work that waits for a replica with its weights tries.
UPDATE_PAUSE = 0.1
_DEAD = (RayActorError, ReplicaUnavailableError, ObjectLostError)


class RemoteEngines:
    """Both halves of one model on replicas of their own.

    Args:
        info: what the model is.
        encoder: handle of its encoder's deployment.
        decoder: handle of its decoder's deployment.
    """

    def __init__(self, info: ModelInfo, encoder: "Handle", decoder: "Handle") -> None:
        self._info = info
        self._encoder, self._decoder = encoder, decoder
        self._inside = 0
        self._closed = False
        self._looking: asyncio.Task[None] | None = None

    @property
    def info(self) -> ModelInfo:
        """What the model is; constant."""
        return self._info

    @property
    def ready(self) -> bool:
        """Replicas are warm before Ray sends them anything."""
        return not self._closed

    @property
    def alive(self) -> bool:
        """Ray replaces replicas that are not."""
        return not self._closed

    @property
    def waiting(self) -> int:
        """Pictures that this gateway waits for."""
        return self._inside

    @property
    def backlog_seconds(self) -> float:
        """Not known here: each replica refuses by its own."""
        return 0.0

    @property
    def busy_seconds(self) -> float:
        """Not known here."""
        return 0.0

    @property
    def slots(self) -> Mapping[Half, int]:
        """Not known here."""
        return {}

    def start(self) -> None:
        """Nothing to do: the replicas have started before."""

    def _look_again(self) -> None:
        """A rolling update is under way: learn what the model is now."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            self._info = await self._decoder.info.remote()
        except Exception as error:  # noqa: BLE001  (the next one will tell)
            logger.warning("the decoder did not say what it is: %s", error)

    async def close(self, seconds: float) -> None:
        """Wait for what was submitted, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._inside:  # noqa: ASYNC110  (once, at the end)
                    await asyncio.sleep(0.02)
        self._closed = True

    async def encode(self, pixels: Pixels, call: Call) -> Encoded:
        """See :meth:`EncoderEngine.encode`."""

        async def once() -> Encoded | Refusal:
            response = self._encoder.encode.remote(pixels, CallMessage.of(call))
            try:
                result: Encoded | Refusal = await response
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            return result

        encoded = await self._until_done(once, call)
        if encoded.weights != self._info.fingerprint:
            self._look_again()
        return encoded

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch | None = None
    ) -> Decoded:
        """See :meth:`DecoderEngine.decode`."""

        async def once() -> Decoded | Refusal:
            response = self._decoder.decode.remote(tokens, options, CallMessage.of(call))
            try:
                result: Decoded | Refusal = await response
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            return result

        if watch is None:
            return await self._until_done(once, call, options.patience)
        return await self._watched(tokens, options, call, watch)

    async def _watched(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch
    ) -> Decoded:
        seen = 0

        async def once() -> Decoded | Refusal:
            nonlocal seen
            call_now, previews = CallMessage.of(call), frozenset(watch.previews)
            handle: Any = self._decoder.options(stream=True)
            stream: DeploymentResponseGenerator[Progress | Decoded | Refusal]
            stream = handle.watch.remote(tokens, options, call_now, previews)
            try:
                async for news in stream:
                    if isinstance(news, Decoded | Refusal):
                        return news
                    # Another replica begins anew: nobody is told a step twice.
                    if news.step > seen:
                        seen = news.step
                        watch.on_progress(news)
            finally:
                stream.cancel()  # type: ignore[no-untyped-call]
            raise EngineStoppedError("the decoder's stream ended without a result")

        return await self._until_done(once, call, options.patience)

    async def _until_done(
        self, once: Callable[[], Awaitable[T | Refusal]], call: Call, patience: float = 0.0
    ) -> T:
        self._inside += 1
        until = time.monotonic() + patience
        try:
            async with asyncio.timeout(
                None if math.isinf(call.deadline) else max(0.0, call.remaining)
            ):
                result = await _retried(once)
                # In a rolling update, replicas of these weights may be there, or come.
                while _is_of_other_weights(result) and time.monotonic() < until:
                    self._look_again()
                    await asyncio.sleep(UPDATE_PAUSE)
                    result = await _retried(once)
        except TimeoutError:
            raise DeadlineExceededError(
                "the replicas had not done the work by the deadline"
            ) from None
        except BackPressureError:
            raise QueueFullError("the replicas' queue is full") from None
        except (*_DEAD, DeploymentUnavailableError) as error:
            logger.error("no replica did the work", exc_info=error)  # noqa: TRY400
            raise EngineStoppedError(
                "the replicas that did the work have died; try again"
            ) from None
        finally:
            self._inside -= 1
        if isinstance(result, Refusal):
            raise result.error
        return result


def _is_of_other_weights(result: object) -> bool:
    return isinstance(result, Refusal) and isinstance(result.error, OtherWeightsError)


async def _retried(once: Callable[[], Awaitable[T]]) -> T:
    for attempt in itertools.count():
        try:
            return await once()
        except _DEAD as error:
            if attempt == RETRIES:
                raise
            logger.warning("a replica has died (%s); another does its work", type(error).__name__)
    raise AssertionError
