"""Replicas of encoders, decoders and generators: each an engine with a device thread of its own.

The engines never run on the event loop, so health checks are answered while they compute.
"""

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ray import serve
from ray.exceptions import RayError

from flowmo.imaging.reading import Pixels
from flowmo.model.errors import FlowMoError
from flowmo.model.inference import Half
from flowmo.model.tokens import Tokens
from flowmo.service.cluster.backlog import BACKLOG, WORK, WorkShare
from flowmo.service.cluster.logs import configure_process_logs
from flowmo.service.cluster.memory import give_back_memory
from flowmo.service.cluster.metrics import RayInstruments
from flowmo.service.engine.calls import Decoded, DecodeOptions, DecodeProgress, Encoded, Watch
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.engine.decoder import DecoderEngine
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.encoder import EncoderEngine
from flowmo.service.engine.generate_calls import (
    Generated,
    GenerateOptions,
    GenerateProgress,
    GenerateWatch,
)
from flowmo.service.engine.generator import GeneratorEngine
from flowmo.service.engine.messages import CallMessage, RemoteError
from flowmo.service.engine.model_info import ModelInfo, PriorInfo
from flowmo.service.engine.observer import EngineKind
from flowmo.service.engine.streams import own_stream
from flowmo.service.errors import RequestError
from flowmo.service.garbage import set_aside
from flowmo.service.loader import load_prior_of, load_runner
from flowmo.service.telemetry.metrics import EngineMetrics

if TYPE_CHECKING:
    import torch
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 5.0
_LOOK_EVERY = 0.02
# How long an encoder waits for a decoder of its weights, and how often it asks.
_DECODER_SECONDS = 600.0
_ASK_EVERY = 0.5
# What a client or the load did; anything else is a bug, and fails as one.
_EXPECTED = (RequestError, FlowMoError)


P = TypeVar("P")
R = TypeVar("R")
Engine = TypeVar("Engine", EncoderEngine, DecoderEngine, GeneratorEngine)


class _Replica(ABC, Generic[Engine]):
    """What the replicas of all engines have in common."""

    kind: ClassVar[EngineKind]
    is_fallback = False
    # What may know the memory that the replica holds.
    _holder: object = None

    def __init__(self, name: str, config: RunnerConfig) -> None:
        self._name = name
        configure_process_logs()
        device = self._load(config)
        give_back_memory()  # that of the other half, which was loaded to know the fingerprint
        self._metrics = EngineMetrics(RayInstruments())
        self._device = DeviceThread(own_stream(device), warmed=set_aside)
        self._engine: Engine = self._make_engine(config)
        self._work_share = WorkShare(lambda: self._engine.computed_seconds)

    @abstractmethod
    def _load(self, config: RunnerConfig) -> "torch.device":
        """Load what computes; its device."""

    @abstractmethod
    def _make_engine(self, config: RunnerConfig) -> Engine: ...

    async def _warm_up(self) -> None:
        self._device.start([self._engine])
        while not self._device.ready:
            if not self._device.alive:
                raise RuntimeError(f"{self._name}: the warm-up failed; the log says why")
            await asyncio.sleep(_LOOK_EVERY)
        self._sampler = asyncio.create_task(self._sample())

    async def _sample(self) -> None:
        while True:
            self._metrics.busy.set(self._name, to=self._device.busy_seconds)
            self._metrics.queue_depth.set(self._name, to=self._engine.queue_depth)
            self._metrics.backlog.set(self._name, to=self._engine.backlog_seconds)
            self._metrics.slots.set(self._name, self.kind, to=self._engine.slots)
            self._metrics.gpu_memory.sample()
            self._metrics.model_memory.sample(self._name, self._holder)
            self._metrics.fallback.set(self._name, to=self.is_fallback)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _reported(
        self, work: asyncio.Task[R], updates: "asyncio.Queue[P | None]"
    ) -> AsyncGenerator[P | R | RemoteError, None]:
        """The progress of work as it comes, then its result or the error."""
        work.add_done_callback(lambda _: updates.put_nowait(None))
        try:
            while (progress := await updates.get()) is not None:
                yield progress
            try:
                yield work.result()
            except _EXPECTED as error:
                yield self._refusal(error)
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await work

    def _refusal(self, error: Exception) -> RemoteError:
        return RemoteError(error, serve.get_replica_context().replica_id.unique_id)

    def backlog_seconds(self) -> float:
        """The seconds until this replica would have done all the work that it has."""
        return self._engine.backlog_seconds

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Report the work in this replica, for :class:`BacklogPolicy`; Ray calls this often."""
        return {BACKLOG: self._engine.backlog_seconds, WORK: self._work_share()}

    def check_health(self) -> None:
        """Check that the engine works; Ray calls this often, and replaces a replica that raises.

        Raises:
            RuntimeError: The device thread has ended, its device does not answer or is lost, or
                one batch after the other fails.
        """
        if (complaint := self._device.complaint) is not None:
            raise RuntimeError(f"{self._name}: {complaint}")


H = TypeVar("H", EncoderEngine, DecoderEngine)


class _HalfReplica(_Replica[H]):
    """What the replicas of encoders and of decoders have in common."""

    def _load(self, config: RunnerConfig) -> "torch.device":
        half: Half = "encoder" if self.kind == "encoder" else "decoder"
        self._runner = self._holder = load_runner(config, halves=[half])
        self.is_fallback = self._runner.info.is_fallback
        return self._runner.device

    def info(self) -> ModelInfo:
        """The model's shapes, weights and device; constant."""
        return self._runner.info


class EncoderReplica(_HalfReplica[EncoderEngine]):
    """A replica that turns pixels into tokens.

    Args:
        name: The model's name.
        config: The model's configuration.
        decoder: Ray's handle of the model's decoder; the replica takes requests when a decoder of
            its weights is there.
    """

    kind: ClassVar[EngineKind] = "encoder"

    async def __init__(  # type: ignore[misc]
        self, name: str, config: RunnerConfig, decoder: "DeploymentHandle[Any]"
    ) -> None:
        super().__init__(name, config)
        await self._warm_up()
        await self._until_decodable(decoder)

    async def _until_decodable(self, decoder: "DeploymentHandle[Any]") -> None:
        # In a rolling update to other weights, tokens of an encoder that comes before the first new
        # decoder could be decoded by nobody. The old encoders work until this one is ready.
        until = time.monotonic() + _DECODER_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError, RayError):
                async with asyncio.timeout(5.0):
                    if (await decoder.info.remote()).fingerprint == self.info().fingerprint:
                        return
            await asyncio.sleep(_ASK_EVERY)
        logger.warning("%s: no decoder of the same weights came; taking requests", self._name)

    def _make_engine(self, config: RunnerConfig) -> EncoderEngine:
        return EncoderEngine(
            self._runner,
            self._device,
            self._metrics.observer(self._name),
            max_queued_requests=config.max_queued_requests,
        )

    async def encode(self, pixels: Pixels, call: CallMessage) -> Encoded | RemoteError:
        """See :meth:`EncoderEngine.encode`."""
        try:
            return await self._engine.encode(pixels, call.received())
        except _EXPECTED as error:
            return self._refusal(error)


class DecoderReplica(_HalfReplica[DecoderEngine]):
    """A replica that turns tokens into pixels.

    Args:
        name: The model's name.
        config: The model's configuration.
    """

    kind: ClassVar[EngineKind] = "decoder"

    async def __init__(self, name: str, config: RunnerConfig) -> None:  # type: ignore[misc]
        super().__init__(name, config)
        await self._warm_up()

    def _make_engine(self, config: RunnerConfig) -> DecoderEngine:
        return DecoderEngine(
            self._runner,
            self._device,
            self._metrics.observer(self._name),
            max_queued_requests=config.max_queued_requests,
            batching=config.batching,
        )

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, call: CallMessage
    ) -> Decoded | RemoteError:
        """See :meth:`DecoderEngine.decode`."""
        try:
            return await self._engine.decode(tokens, options, call.received())
        except _EXPECTED as error:
            return self._refusal(error)

    async def watch(
        self, tokens: Tokens, options: DecodeOptions, call: CallMessage, previews: frozenset[int]
    ) -> AsyncIterator[DecodeProgress | Decoded | RemoteError]:
        """Decode a token set and report its progress.

        Yields:
            The progress after each step, then the result or the error.
        """
        updates: asyncio.Queue[DecodeProgress | None] = asyncio.Queue()
        watch = Watch(on_progress=updates.put_nowait, previews=previews)
        work = asyncio.create_task(self._engine.decode(tokens, options, call.received(), watch))
        reported = self._reported(work, updates)
        async with contextlib.aclosing(reported) as items:
            async for item in items:
                yield item


class GeneratorReplica(_Replica[GeneratorEngine]):
    """A replica that makes tokens of classes.

    Args:
        name: The model's name.
        config: The model's configuration, with a prior.
    """

    kind: ClassVar[EngineKind] = "generator"

    async def __init__(self, name: str, config: RunnerConfig) -> None:  # type: ignore[misc]
        super().__init__(name, config)
        await self._warm_up()

    def _load(self, config: RunnerConfig) -> "torch.device":
        self._runner = load_prior_of(config)
        return self._runner.device

    def _make_engine(self, config: RunnerConfig) -> GeneratorEngine:
        return GeneratorEngine(
            self._runner,
            self._device,
            self._metrics.observer(self._name, generates=True),
            max_queued_requests=config.max_queued_requests,
            batching=config.batching,
        )

    def info(self) -> PriorInfo:
        """The prior's weights, classes and default sampler; constant."""
        return self._runner.info

    async def generate(
        self, options: GenerateOptions, call: CallMessage
    ) -> Generated | RemoteError:
        """See :meth:`GeneratorEngine.generate`."""
        try:
            return await self._engine.generate(options, call.received())
        except _EXPECTED as error:
            return self._refusal(error)

    async def watch(
        self, options: GenerateOptions, call: CallMessage, previews: frozenset[int]
    ) -> AsyncIterator[GenerateProgress | Generated | RemoteError]:
        """Generate tokens and report the progress.

        Yields:
            The progress after each step, then the result or the error.
        """
        updates: asyncio.Queue[GenerateProgress | None] = asyncio.Queue()
        watch = GenerateWatch(on_progress=updates.put_nowait, previews=previews)
        work = asyncio.create_task(self._engine.generate(options, call.received(), watch))
        reported = self._reported(work, updates)
        async with contextlib.aclosing(reported) as items:
            async for item in items:
                yield item
