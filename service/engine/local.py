"""Both engines over one device of this process."""

from collections.abc import Mapping
from dataclasses import dataclass

from flowmo.imaging.reading import Pixels
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    DEFAULT_MAX_QUEUED_REQUESTS,
    Batching,
    Call,
    Decoded,
    DecodeOptions,
    Encoded,
    Watch,
)
from flowmo.service.engine.decoder import DecoderEngine
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.encoder import EncoderEngine
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import EngineObserver, Half, Silent
from flowmo.service.engine.runner import DecoderRunner, EncoderRunner


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How engines of one process work.

    Attributes:
        max_queued_requests: pictures inside each engine at once; more are refused.
        batching: see :class:`DecoderEngine`.
    """

    max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS
    batching: Batching = "step"


class LocalEngines:
    """One model in this process: both engines on one device thread.

    Args:
        encoder: computes tokens.
        decoder: computes steps.
        settings: how.
        observer: is told what happens.
    """

    def __init__(
        self,
        encoder: EncoderRunner,
        decoder: DecoderRunner,
        settings: EngineSettings | None = None,
        observer: EngineObserver | None = None,
    ) -> None:
        settings, observer = settings or EngineSettings(), observer or Silent()
        self._info = decoder.info
        self.device = DeviceThread()
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

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        return self._info

    @property
    def ready(self) -> bool:
        """Warmed up and working."""
        return self.device.ready

    @property
    def alive(self) -> bool:
        """The device thread runs and is not stuck."""
        return self.device.alive

    @property
    def waiting(self) -> int:
        """Pictures inside both engines."""
        return self.encoder.queue_depth + self.decoder.queue_depth

    @property
    def backlog_seconds(self) -> float:
        """Time until all decodes that are inside would be done."""
        return self.decoder.backlog_seconds

    @property
    def busy_seconds(self) -> float:
        """Age of the batch that runs now; 0 when idle."""
        return self.device.busy_seconds

    @property
    def slots(self) -> Mapping[Half, int]:
        """Rows of the largest batch of each half."""
        return {"encode": self.encoder.slots, "decode": self.decoder.slots}

    def start(self) -> None:
        """Start the device thread; it warms up first. Work may be submitted at once."""
        self.device.start([self.encoder, self.decoder])

    async def close(self, seconds: float = 30.0) -> None:
        """Finish what was submitted, then end; what is not done after ``seconds`` is refused."""
        await self.device.close(seconds)

    async def encode(self, pixels: Pixels, call: Call | None = None) -> Encoded:
        """See :meth:`EncoderEngine.encode`."""
        return await self.encoder.encode(pixels, call or Call())

    async def decode(
        self,
        tokens: Tokens,
        options: DecodeOptions,
        call: Call | None = None,
        watch: Watch | None = None,
    ) -> Decoded:
        """See :meth:`DecoderEngine.decode`."""
        return await self.decoder.decode(tokens, options, call or Call(), watch)
