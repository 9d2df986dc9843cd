"""What the gateway knows of a model: pictures in, tokens out, and back, wherever it is computed."""

from collections.abc import Mapping
from typing import Protocol

from flowmo.imaging.reading import Pixels
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call, Decoded, DecodeOptions, Encoded, Watch
from flowmo.service.engine.generate_calls import Generated, GenerateOptions, GenerateWatch
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import EngineKind


class Encoder(Protocol):
    """Turns pictures into tokens for many callers at once.

    Each caller is guaranteed its tokens, or an error that says why there are none, by its deadline,
    and its share of every batch, as :class:`FairQueue` says; whatever else is in a batch does not
    change the tokens beyond the rounding of a sum.
    """

    async def encode(self, pixels: Pixels, call: Call) -> Encoded:
        """See :meth:`EncoderEngine.encode`."""
        ...


class Decoder(Protocol):
    """Turns tokens into pictures for many callers at once.

    Each caller is guaranteed its picture, or an error that says why there is none, by its deadline;
    that its decode is done within R (1 + n / S) ticks, R being its own rows, S its share of the
    rows of a tick and n the decodes that share them, as :class:`FairQueue` says, however long those
    are; and that the picture depends on its own tokens, seed and options alone, up to the rounding
    of a sum.
    """

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch | None = None
    ) -> Decoded:
        """See :meth:`DecoderEngine.decode`."""
        ...


class Generator(Protocol):
    """Generates tokens for many callers at once.

    Each caller is guaranteed what :class:`Decoder` guarantees, of its tokens: its share of the
    rows of a tick, and that they depend on its own class, seed, options and kept tokens alone, up
    to the rounding of a sum.
    """

    async def generate(
        self, options: GenerateOptions, call: Call, watch: GenerateWatch | None = None
    ) -> Generated:
        """See :meth:`GeneratorEngine.generate`."""
        ...


class Engines(Protocol):
    """The engines of one model: in this process, or on replicas elsewhere."""

    @property
    def encoder(self) -> Encoder:
        """The engine that turns pictures into tokens."""
        ...

    @property
    def decoder(self) -> Decoder:
        """The engine that turns tokens into pictures."""
        ...

    @property
    def generator(self) -> Generator | None:
        """The engine that makes tokens of a class; None where the model has no prior."""
        ...

    @property
    def info(self) -> ModelInfo:
        """The model's shapes, weights and device; constant."""
        ...

    @property
    def ready(self) -> bool:
        """Whether all engines are warmed up and working."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the engines have neither ended nor got stuck, and do not only fail."""
        ...

    @property
    def complaint(self) -> str | None:
        """Why the engines are not alive; None when they are."""
        ...

    @property
    def waiting(self) -> int:
        """The number of pictures inside all engines, waiting or being computed."""
        ...

    @property
    def backlog_seconds(self) -> float:
        """The time until the decoder has a free slot, as far as it is known; 0 while it has."""
        ...

    @property
    def busy_seconds(self) -> float:
        """The age of the batch that runs now, in seconds; 0 when the device is idle."""
        ...

    @property
    def slots(self) -> Mapping[EngineKind, int]:
        """The rows of each engine's largest batch, as far as they are known."""
        ...

    def start(self) -> None:
        """Begin to warm up. Work may be submitted at once."""
        ...

    async def close(self, seconds: float) -> None:
        """Finish the work inside; what is not done after ``seconds`` is refused."""
        ...
