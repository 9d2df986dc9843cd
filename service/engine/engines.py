"""What the gateway knows of a model: pictures in, tokens out, and back, wherever it is computed."""

from collections.abc import Mapping
from typing import Protocol

from flowmo.imaging.reading import Pixels
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call, Decoded, DecodeOptions, Encoded, Watch
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import Half


class Engines(Protocol):
    """Both halves of one model: in this process, or on replicas elsewhere."""

    @property
    def info(self) -> ModelInfo:
        """What the model is; constant."""
        ...

    @property
    def ready(self) -> bool:
        """Warmed up and working."""
        ...

    @property
    def alive(self) -> bool:
        """Not ended, and not stuck."""
        ...

    @property
    def waiting(self) -> int:
        """Pictures inside."""
        ...

    @property
    def backlog_seconds(self) -> float:
        """Time until all decodes that are inside would be done, as far as is known."""
        ...

    @property
    def busy_seconds(self) -> float:
        """Age of the batch that runs now; 0 when idle."""
        ...

    @property
    def slots(self) -> Mapping[Half, int]:
        """Rows of the largest batch of each half, as far as is known."""
        ...

    def start(self) -> None:
        """Begin to warm up. Work may be submitted at once."""
        ...

    async def close(self, seconds: float) -> None:
        """Finish what was submitted; what is not done after ``seconds`` is refused."""
        ...

    async def encode(self, pixels: Pixels, call: Call) -> Encoded:
        """See :meth:`EncoderEngine.encode`."""
        ...

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch | None = None
    ) -> Decoded:
        """See :meth:`DecoderEngine.decode`."""
        ...
