"""The contract between the engines and whatever computes: PyTorch, or something compiled.

A runner is called from the device thread, but for what says otherwise. It computes whole batches of
one of its ``buckets``; the engines pad. State lives on the runner's device between calls. Calls may
return before the device has done what they ask for: it does it in the order of the calls. On a GPU
the device thread has the runner's device and a stream of its own; no call may wait for more than
what that stream was given, because other models of the process work beside it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowmo.imaging.reading import Pixels
from flowmo.model.tokens import Tokens
from flowmo.service.engine.model_info import ModelInfo, PriorInfo

if TYPE_CHECKING:  # the contract itself does not need torch
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


class Marker(Protocol):
    """A point in what the device was given to do."""

    def synchronize(self) -> None:
        """Wait until the device has come to it.

        Raises:
            Exception: The device has failed.
        """
        ...


@runtime_checkable
class TellsMemory(Protocol):
    """A runner, or the engines around it, that knows what memory it holds; not every one does."""

    def memory_by_owner(self) -> Mapping[str, int]:
        """The bytes that are held, by what holds them; called from any thread."""
        ...


class RunnerBase(Protocol):
    """What the runners of the encoder and of the decoder have in common."""

    @property
    def info(self) -> ModelInfo:
        """The model's shapes, weights and device; constant."""
        ...

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that are computed, ascending."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        ...


class EncoderRunner(RunnerBase, Protocol):
    """Turns pixels into tokens."""

    def encode(self, pixels: Pixels) -> list[Tokens]:
        """Encode a batch of pictures.

        Args:
            pixels: uint8 [B, S, S, 3], B one of the buckets.

        Returns:
            B token sets, in the order of the pictures.
        """
        ...


class DecoderRunner(RunnerBase, Protocol):
    """Computes the velocity of rows that may be at different times."""

    def check(self, tokens: Tokens) -> None:
        """Check that tokens can be decoded; called from any thread.

        Raises:
            model.errors.TokenError: The tokens have another shape than the model's.
        """
        ...

    @property
    def device(self) -> "torch.device":
        """Where states lie."""
        ...

    def begin(self, tokens: Tokens, seed: int) -> "tuple[Tensor, Tensor]":
        """Prepare a decode; called from any thread.

        Args:
            tokens: A token set of the model.
            seed: The seed of the starting noise, 0 <= seed < 2^63.

        Returns:
            Noise, float32 [3, S, S], and condition, [K, D + 1], in the host's memory: pinned, if
            the device has its own.
        """
        ...

    def condition(self, tokens: Tokens) -> "Tensor":
        """The conditions of the tiles of a picture; called from any thread.

        Args:
            tokens: The tokens of T tiles of the model.

        Returns:
            [T, K, D + 1], in the host's memory as of :meth:`begin`.
        """
        ...

    def record(self) -> Marker | None:
        """Mark the end of what the device was given so far; None where it has done it already."""
        ...

    def velocity(self, x: "Tensor", times: Sequence[float], condition: "Tensor") -> "Tensor":
        """Compute the velocity of a batch.

        Args:
            x: The states, float32 [B, 3, S, S], B one of the buckets.
            times: The time of each row, in [0, 1].
            condition: [B, K, D + 1]; zeros are the null condition.

        Returns:
            The velocity of each row, float32 [B, 3, S, S].
        """
        ...

    def pixels(self, x: "Tensor") -> Pixels:
        """Turn states into pictures.

        Args:
            x: float32 [B, 3, S, S] in [-1, 1]; what lies outside is clipped.

        Returns:
            uint8 [B, S, S, 3], filled when a marker that is recorded afterwards is reached.
        """
        ...


class GeneratorRunner(Protocol):
    """Computes the logits of rows that may be at different steps."""

    @property
    def info(self) -> PriorInfo:
        """The prior's weights, classes and default sampler; constant."""
        ...

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that are computed, ascending."""
        ...

    @property
    def device(self) -> "torch.device":
        """Where states lie."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        ...

    def record(self) -> Marker | None:
        """Mark the end of what the device was given so far; None where it has done it already."""
        ...

    def logits(self, ids: "Tensor", classes: Sequence[int]) -> "Tensor":
        """Compute the logits of a batch.

        Args:
            ids: int64 [B, N], B one of the buckets; masked places have the mask id.
            classes: The class of each row.

        Returns:
            float32 [B, N, V].
        """
        ...

    def to_host(self, ids: "Tensor") -> "NDArray[np.int64]":
        """Copy ids to the host's memory.

        Args:
            ids: int64 [B, N].

        Returns:
            The same, filled when a marker that is recorded afterwards is reached.
        """
        ...


class Runner(EncoderRunner, DecoderRunner, Protocol):
    """The encoder and the decoder of one model on one device."""
