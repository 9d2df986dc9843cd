"""The engines of one model, on one device of this process."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flowmo.service.engine.calls import DEFAULT_MAX_QUEUED_REQUESTS, Batching
from flowmo.service.engine.decoder import DecoderEngine
from flowmo.service.engine.device import DeviceThread, Worker
from flowmo.service.engine.encoder import EncoderEngine
from flowmo.service.engine.generator import GeneratorEngine
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import EngineKind, EngineObserver, NullObserver
from flowmo.service.engine.runner import (
    DecoderRunner,
    EncoderRunner,
    GeneratorRunner,
    TellsMemory,
)
from flowmo.service.engine.step_turns import StepTurns
from flowmo.service.engine.streams import own_stream


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How the engines of one process work.

    Attributes:
        max_queued_requests: How many pictures may be inside each engine at once; more are refused.
        batching: How the decoder forms its batches; see :class:`DecoderEngine`.
    """

    max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS
    batching: Batching = "step"


class LocalEngines:
    """One model in this process: its engines on one device thread.

    Args:
        encoder: The runner that computes tokens.
        decoder: The runner that computes sampler steps; often the same as ``encoder``.
        settings: How the engines work; the defaults of :class:`EngineSettings` without it.
        observer: Is notified of what happens in the engines; nobody is without it.
        generator: The runner of the model's prior; tokens cannot be generated without it.
        warmed: Called in the device thread when the engines are warm, before they count as ready.
    """

    def __init__(
        self,
        encoder: EncoderRunner,
        decoder: DecoderRunner,
        settings: EngineSettings | None = None,
        observer: EngineObserver | None = None,
        generator: GeneratorRunner | None = None,
        warmed: Callable[[], None] | None = None,
    ) -> None:
        settings, observer = settings or EngineSettings(), observer or NullObserver()
        self._info = decoder.info
        self._runners: tuple[object, ...] = (encoder, decoder)
        self.device = DeviceThread(own_stream(decoder.device), warmed=warmed)
        self.encoder = EncoderEngine(
            encoder, self.device, observer, max_queued_requests=settings.max_queued_requests
        )
        self.decoder = DecoderEngine(
            decoder,
            self.device,
            observer,
            max_queued_requests=settings.max_queued_requests,
            batching=settings.batching,
        )
        self.generator: GeneratorEngine | None = None
        if generator is not None:
            self._info = replace(self._info, prior=generator.info)
            self.generator = GeneratorEngine(
                generator,
                self.device,
                observer,
                max_queued_requests=settings.max_queued_requests,
                batching=settings.batching,
            )
            self.generator.beside, self.decoder.beside = [self.decoder], [self.generator]

    @property
    def info(self) -> ModelInfo:
        """The model's shapes, weights and device; constant."""
        return self._info

    @property
    def ready(self) -> bool:
        """Whether all engines are warmed up and working."""
        return self.device.ready

    @property
    def alive(self) -> bool:
        """Whether the device thread runs, is not stuck and does not only fail."""
        return self.device.alive

    @property
    def complaint(self) -> str | None:
        """Why the engines are not alive; None when they are."""
        return self.device.complaint

    @property
    def waiting(self) -> int:
        """The number of pictures inside all engines, waiting or being computed."""
        generating = 0 if self.generator is None else self.generator.queue_depth
        return self.encoder.queue_depth + self.decoder.queue_depth + generating

    @property
    def backlog_seconds(self) -> float:
        """The time until all that waits is encoded, and decoder and generator have a free slot.

        Their sum, for one device does all; 0 while nothing waits.
        """
        generating = 0.0 if self.generator is None else self.generator.backlog_seconds
        return self.encoder.backlog_seconds + self.decoder.backlog_seconds + generating

    @property
    def busy_seconds(self) -> float:
        """The age of the batch that runs now, in seconds; 0 when the device is idle."""
        return self.device.busy_seconds

    @property
    def slots(self) -> Mapping[EngineKind, int]:
        """The rows of each engine's largest batch."""
        slots: dict[EngineKind, int] = {
            "encoder": self.encoder.slots,
            "decoder": self.decoder.slots,
        }
        if self.generator is not None:
            slots["generator"] = self.generator.slots
        return slots

    def memory_by_owner(self) -> Mapping[str, int]:
        """The bytes that the model's runners hold, by what holds them, as far as they know it."""
        # One that does both halves is counted once.
        runners = {id(runner): runner for runner in self._runners}.values()
        owners: Counter[str] = Counter()
        for runner in runners:
            if isinstance(runner, TellsMemory):
                owners.update(runner.memory_by_owner())
        return owners

    def start(self) -> None:
        """Start the device thread, which warms up first. Work may be submitted at once."""
        steps: Worker = self.decoder
        if self.generator is not None:
            steps = StepTurns([self.decoder, self.generator])
        self.device.start([self.encoder, steps])

    async def close(self, seconds: float = 30.0) -> None:
        """Finish the work inside, then end; what is not done after ``seconds`` is refused."""
        await self.device.close(seconds)
