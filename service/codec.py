"""The contract between serving and whatever turns pixels into tokens and back.

Everything above (engine, routes, command line) knows this page only. A codec is called from one
thread at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from flowmo.imaging.reading import Pixels
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.tokens import Tokens

if TYPE_CHECKING:  # the contract itself does not need torch
    from flowmo.model.inference import InferenceModel
    from flowmo.model.sampler import Observer


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecInfo:
    """What a codec is, for clients and for checks.

    Attributes:
        fingerprint: 32 hex digits that name the weights.
        config: shapes and default sampler.
        device: where it runs, for people.
        dtype: of weights and activations, for people.
        runner: what computes it: a kind of ``deploy.runtime``, for people.
        is_fallback: PyTorch computes because what was asked for is not to be had.
    """

    fingerprint: str
    config: FlowMoConfig
    device: str
    dtype: str
    runner: str = "torch"
    is_fallback: bool = False

    @classmethod
    def of(
        cls, model: "InferenceModel", runner: str = "torch", *, is_fallback: bool = False
    ) -> Self:
        """Of a PyTorch model."""
        return cls(
            fingerprint=model.fingerprint,
            config=model.config,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            runner=runner,
            is_fallback=is_fallback,
        )

    @property
    def name(self) -> str:
        """The model's label."""
        return self.config.name

    @property
    def image_size(self) -> int:
        """S, side of the square pictures in pixels."""
        return self.config.image_size

    @property
    def sampler(self) -> SamplerConfig:
        """How decoding is done when nobody asks for anything else."""
        return self.config.sampler


class Codec(Protocol):
    """Pixels to tokens and back."""

    @property
    def info(self) -> CodecInfo:
        """What it is; constant."""
        ...

    def tokenize(self, pixels: Pixels) -> list[Tokens]:
        """uint8 [B, S, S, 3] to B token sets."""
        ...

    def detokenize(
        self,
        tokens: Sequence[Tokens],
        *,
        seeds: Sequence[int],
        sampler: SamplerConfig,
        observer: "Observer | None" = None,
    ) -> Pixels:
        """B token sets to uint8 [B, S, S, 3].

        Args:
            tokens: of this codec's model.
            seeds: one a token set, 0 <= seed < 2^63; the same seed gives the same picture.
            sampler: grid and guidance.
            observer: called after each step; what it raises ends the decode.

        Raises:
            model.errors.TokenError: tokens of another shape.
        """
        ...

    def warm_up(self) -> None:
        """Do once whatever makes a first request slow."""
        ...
