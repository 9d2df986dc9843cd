"""The engines of one model on replicas, as the gateway sees them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

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


# What one replica answers to a call: the result, or why it could not give it.
Answer = Any


class _Step(Protocol):
    """How far the work is."""

    @property
    def step(self) -> int: ...


P = TypeVar("P", bound=_Step)


async def _answered(response: Any) -> Answer:
    """A replica's answer; whoever gives up waiting has it cancelled there."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


class _Reports(Generic[P]):
    """Reports the progress of one piece of work, by whichever replicas it is done.

    Args:
        on_progress: Is given each step, once.
    """

    def __init__(self, on_progress: Callable[[P], None]) -> None:
        self._on_progress, self._seen = on_progress, 0

    async def until_answered(
        self, stream: "DeploymentResponseGenerator[Answer]", progress: type[P]
    ) -> Answer:
        """A replica's answer, which comes after its progress.

        Args:
            stream: What it gives.
            progress: The type of its progress.
        """
        try:
            async for item in stream:
                if not isinstance(item, progress):
                    return item
                if item.step > self._seen:  # another replica begins anew
                    self._seen = item.step
                    self._on_progress(item)
        finally:
            stream.cancel()  # type: ignore[no-untyped-call]
        raise EngineStoppedError("the replica's stream ended without a result")


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
            message = CallMessage.of(call, refused_by)
            encoded: Encoded | RemoteError
            encoded = await _answered(self._handle.encode.remote(pixels, message))
            return encoded

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
        reports = None if watch is None else _Reports(watch.on_progress)
        previews = frozenset(() if watch is None else watch.previews)

        async def once(refused_by: frozenset[str]) -> Decoded | RemoteError:
            message = CallMessage.of(call, refused_by)
            decoded: Decoded | RemoteError
            if reports is None:
                decoded = await _answered(self._handle.decode.remote(tokens, options, message))
            else:
                handle: Any = self._handle.options(stream=True)
                stream = handle.watch.remote(tokens, options, message, previews)
                decoded = await reports.until_answered(stream, DecodeProgress)
            return decoded

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
        reports = None if watch is None else _Reports(watch.on_progress)
        previews = frozenset(() if watch is None else watch.previews)

        async def once(refused_by: frozenset[str]) -> Generated | RemoteError:
            message = CallMessage.of(call, refused_by)
            generated: Generated | RemoteError
            if reports is None:
                generated = await _answered(self._handle.generate.remote(options, message))
            else:
                handle: Any = self._handle.options(stream=True)
                stream = handle.watch.remote(options, message, previews)
                generated = await reports.until_answered(stream, GenerateProgress)
            return generated

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
