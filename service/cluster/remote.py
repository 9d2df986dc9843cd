"""The engines of one model on replicas, as the gateway sees them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowmo.imaging.reading import Pixels
from flowmo.model.tokens import Tokens
from flowmo.service.cluster.known_backlog import PATIENCE, KnownBacklog
from flowmo.service.cluster.remote_calls import RemoteCalls
from flowmo.service.engine.calls import (
    Call,
    Decoded,
    DecodeOptions,
    DecodeProgress,
    Encoded,
    Watch,
)
from flowmo.service.engine.engines import Generator
from flowmo.service.engine.generate_calls import (
    Generated,
    GenerateOptions,
    GenerateProgress,
    GenerateWatch,
)
from flowmo.service.engine.messages import CallMessage, RemoteError
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import EngineKind
from flowmo.service.errors import EngineStoppedError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

    Handle = DeploymentHandle[Any]


class RemoteEncoder:
    """The encoder's replicas.

    Args:
        handle: Ray's handle of the encoder's deployment.
        calls: The work that this gateway has given to the model's replicas.
    """

    def __init__(self, handle: "Handle", calls: RemoteCalls) -> None:
        self._handle, self._calls = handle, calls

    async def encode(self, pixels: Pixels, call: Call) -> Encoded:
        """See :meth:`EncoderEngine.encode`."""

        async def once(refused_by: frozenset[str]) -> Encoded | RemoteError:
            response = self._handle.encode.remote(pixels, CallMessage.of(call, refused_by))
            try:
                result: Encoded | RemoteError = await response
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            return result

        encoded = await self._calls.until_done(once, call)
        if encoded.weights != self._calls.info.fingerprint:
            self._calls.ask_again()
        return encoded


class RemoteDecoder:
    """The decoder's replicas.

    Args:
        handle: Ray's handle of the decoder's deployment.
        calls: The work that this gateway has given to the model's replicas.
    """

    def __init__(self, handle: "Handle", calls: RemoteCalls) -> None:
        self._handle, self._calls = handle, calls

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch | None = None
    ) -> Decoded:
        """See :meth:`DecoderEngine.decode`."""

        async def once(refused_by: frozenset[str]) -> Decoded | RemoteError:
            message = CallMessage.of(call, refused_by)
            response = self._handle.decode.remote(tokens, options, message)
            try:
                result: Decoded | RemoteError = await response
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            return result

        if watch is None:
            return await self._calls.until_done(once, call, options.patience)
        return await self._watched(tokens, options, call, watch)

    async def _watched(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch
    ) -> Decoded:
        seen = 0

        async def once(refused_by: frozenset[str]) -> Decoded | RemoteError:
            nonlocal seen
            call_now, previews = CallMessage.of(call, refused_by), frozenset(watch.previews)
            handle: Any = self._handle.options(stream=True)
            stream: DeploymentResponseGenerator[DecodeProgress | Decoded | RemoteError]
            stream = handle.watch.remote(tokens, options, call_now, previews)
            try:
                async for item in stream:
                    if isinstance(item, Decoded | RemoteError):
                        return item
                    # Another replica begins anew: no step is reported twice.
                    if item.step > seen:
                        seen = item.step
                        watch.on_progress(item)
            finally:
                stream.cancel()  # type: ignore[no-untyped-call]
            raise EngineStoppedError("the decoder's stream ended without a result")

        return await self._calls.until_done(once, call, options.patience)


class RemoteGenerator:
    """The generator's replicas.

    Args:
        handle: Ray's handle of the generator's deployment.
        calls: The work that this gateway has given to the model's replicas.
    """

    def __init__(self, handle: "Handle", calls: RemoteCalls) -> None:
        self._handle, self._calls = handle, calls

    async def generate(
        self, options: GenerateOptions, call: Call, watch: GenerateWatch | None = None
    ) -> Generated:
        """See :meth:`GeneratorEngine.generate`."""

        async def once(refused_by: frozenset[str]) -> Generated | RemoteError:
            response = self._handle.generate.remote(options, CallMessage.of(call, refused_by))
            try:
                result: Generated | RemoteError = await response
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            return result

        if watch is None:
            return await self._calls.until_done(once, call, options.patience)
        return await self._watched(options, call, watch)

    async def _watched(
        self, options: GenerateOptions, call: Call, watch: GenerateWatch
    ) -> Generated:
        seen = 0

        async def once(refused_by: frozenset[str]) -> Generated | RemoteError:
            nonlocal seen
            call_now, previews = CallMessage.of(call, refused_by), frozenset(watch.previews)
            handle: Any = self._handle.options(stream=True)
            stream: DeploymentResponseGenerator[GenerateProgress | Generated | RemoteError]
            stream = handle.watch.remote(options, call_now, previews)
            try:
                async for item in stream:
                    if isinstance(item, Generated | RemoteError):
                        return item
                    # Another replica begins anew: no step is reported twice.
                    if item.step > seen:
                        seen = item.step
                        watch.on_progress(item)
            finally:
                stream.cancel()  # type: ignore[no-untyped-call]
            raise EngineStoppedError("the generator's stream ended without a result")

        return await self._calls.until_done(once, call, options.patience)


class RemoteEngines:
    """The engines of one model, each on replicas of its own.

    Args:
        info: The model as :func:`described` gave it.
        encoder: Ray's handle of the encoder's deployment.
        decoder: Ray's handle of the decoder's deployment.
        generator: Ray's handle of the generator's; None of a model without a prior.
    """

    def __init__(
        self,
        info: ModelInfo,
        encoder: "Handle",
        decoder: "Handle",
        generator: "Handle | None" = None,
    ) -> None:
        handles = [handle for handle in (encoder, decoder, generator) if handle is not None]
        self._backlogs = [KnownBacklog(_asking(handle)) for handle in handles]
        self._calls = RemoteCalls(
            info, lambda: described(decoder, generator), lambda: self.backlog_seconds
        )
        self.encoder = RemoteEncoder(encoder, self._calls)
        self.decoder = RemoteDecoder(decoder, self._calls)
        self.generator: Generator | None = None
        if generator is not None:
            self.generator = RemoteGenerator(generator, self._calls)

    @property
    def info(self) -> ModelInfo:
        """The model as a replica described it last."""
        return self._calls.info

    @property
    def ready(self) -> bool:
        """Whether this gateway is open: replicas are warm before Ray sends them anything."""
        return not self._calls.closed

    @property
    def alive(self) -> bool:
        """Whether this gateway is open: Ray replaces replicas that are not alive."""
        return not self._calls.closed

    @property
    def complaint(self) -> str | None:
        """Why this gateway is not open; None when it is."""
        return "this gateway has given up its replicas" if self._calls.closed else None

    @property
    def waiting(self) -> int:
        """The number of pictures that this gateway waits for."""
        return self._calls.inside

    @property
    def backlog_seconds(self) -> float:
        """The time until replicas would have done what they have, as they said it last.

        On average over them; that of the engine whose are longest.
        """
        return max(backlog.seconds for backlog in self._backlogs)

    @property
    def busy_seconds(self) -> float:
        """Zero: each replica knows its own device."""
        return 0.0

    @property
    def slots(self) -> Mapping[EngineKind, int]:
        """Empty: each replica knows its own batch sizes."""
        return {}

    def start(self) -> None:
        """Begin to ask the replicas, which have started before, how much work they have."""
        for backlog in self._backlogs:
            backlog.start()

    async def close(self, seconds: float) -> None:
        """Wait for the work inside, for at most ``seconds``."""
        await self._calls.close(seconds)
        for backlog in self._backlogs:
            await backlog.close()


async def described(decoder: "Handle", generator: "Handle | None") -> ModelInfo:
    """Ask a model's replicas what they are."""
    info: ModelInfo = await decoder.info.remote()
    return info if generator is None else replace(info, prior=await generator.info.remote())


def _asking(handle: "Handle") -> Callable[[], Awaitable[list[float]]]:
    async def ask() -> list[float]:
        asked = handle.broadcast("backlog_seconds")
        said = await asked.results_async(timeout_s=PATIENCE, return_exceptions=True)
        return [one for one in said if isinstance(one, float)]

    return ask
