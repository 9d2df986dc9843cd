"""The two halves of a network, and the contract of what computes them in place of PyTorch."""

from collections.abc import Mapping
from typing import Literal, Protocol, get_args, runtime_checkable

from torch import Tensor, nn

from flowmo.model.config import SamplerConfig

Half = Literal["encoder", "decoder"]
HALVES: tuple[Half, ...] = get_args(Half)


class Steps(Protocol):
    """The two halves of a network, computed by something else than its PyTorch modules."""

    def encode(self, images: Tensor) -> Tensor:
        """Turn images, float [B, 3, S, S] in [-1, 1], into the code, float32 [B, K, D]."""
        ...

    def velocity(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        """Turn states [B, 3, S, S], condition [B, K, D + 1] and modulation [B, M] into velocity.

        Returns:
            Float32 [B, 3, S, S].
        """
        ...


@runtime_checkable
class HoldsMemory(Protocol):
    """Steps that hold memory of the device beside the model's own."""

    def memory_by_owner(self) -> Mapping[str, int]:
        """The bytes that they hold, by what holds them, for people."""
        ...


@runtime_checkable
class DecodesWhole(Protocol):
    """Steps that compute some decodes as a whole, from the first step to the last."""

    def takes_whole(self, rows: int, sampler: SamplerConfig) -> bool:
        """Whether a decode of so many images by a sampler is one of them."""
        ...

    def decode(self, start: Tensor, condition: Tensor, sampler: SamplerConfig) -> Tensor:
        """Compute one of them; nothing else runs on its stream meanwhile.

        Args:
            start: Unit normal noise, float32 [B, 3, S, S].
            condition: [B, K, D + 1], in the model's dtype.
            sampler: Time grid and guidance.

        Returns:
            Float32 [B, 3, S, S], clipped to [-1, 1].
        """
        ...


def bytes_of(module: nn.Module | None) -> int:
    """The bytes of a module's parameters and buffers; of quantized ones, those of their parts."""
    if module is None:
        return 0
    return sum(map(_stored_bytes, (*module.parameters(), *module.buffers())))


def _stored_bytes(tensor: Tensor) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    parts, _ = tensor.__tensor_flatten__()
    return sum(_stored_bytes(getattr(tensor, part)) for part in parts)
