"""The contract between the engines and whatever computes: PyTorch, or something compiled.

A runner is called from the device thread only. It computes whole batches of one of its
``buckets``; the engines pad. State lives on the runner's device between calls.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from flowmo.imaging.reading import Pixels
from flowmo.model.tokens import Tokens
from flowmo.service.engine.model_info import ModelInfo

if TYPE_CHECKING:  # the contract itself does not need torch
    from torch import Tensor


class RunnerBase(Protocol):
    """What the encoder's and the decoder's runner have in common."""

    @property
    def info(self) -> ModelInfo:
        """The card of the model; constant."""
        ...

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes that it computes, ascending."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        ...


class EncoderRunner(RunnerBase, Protocol):
    """Pixels to tokens."""

    def encode(self, pixels: Pixels) -> list[Tokens]:
        """uint8 [B, S, S, 3] to B token sets, B one of the buckets."""
        ...


class DecoderRunner(RunnerBase, Protocol):
    """The velocity of rows that may be at different times."""

    def check(self, tokens: Tokens) -> None:
        """Called from any thread.

        Raises:
            model.errors.TokenError: tokens of another shape than the model's.
        """
        ...

    def begin(self, tokens: Tokens, seed: int) -> "tuple[Tensor, Tensor]":
        """Noise [3, S, S] of the seed and condition [K, D + 1] of the tokens, on the device."""
        ...

    def velocity(self, x: "Tensor", times: Sequence[float], condition: "Tensor") -> "Tensor":
        """Velocity of a batch.

        Args:
            x: float32 [B, 3, S, S], B one of the buckets.
            times: B of them, in [0, 1].
            condition: [B, K, D + 1]; zeros are the null condition.

        Returns:
            float32 [B, 3, S, S].
        """
        ...

    def pixels(self, x: "Tensor") -> Pixels:
        """float32 [B, 3, S, S] in [-1, 1], clipped, to uint8 [B, S, S, 3]."""
        ...


class Runner(EncoderRunner, DecoderRunner, Protocol):
    """Encoder and decoder of one model on one device."""
