"""Activations and weights in fp8 (e4m3), a scale a row.

A row is a token of an activation, or an output of a weight. Its largest magnitude becomes 448, the
largest number of the format, so nothing is ever infinite; what is less than a 2^-10th of the scale
becomes zero.

Shape legend: B rows, N tokens of a stream, d width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPE = torch.float8_e4m3fn
LARGEST = 448.0
"""Of the format; beyond it a cast gives no number."""
LEAST_SCALE = 1e-12
"""Of a row that is zero, or so small that its inverse would not be finite."""


class Quantized(NamedTuple):
    """A tensor in fp8: ``values * scales`` is what it stands for.

    Attributes:
        values: float8_e4m3fn [..., d].
        scales: Float32 [..., 1], at least :data:`LEAST_SCALE`.
    """

    values: Tensor
    scales: Tensor

    def dequantized(self) -> Tensor:
        """Float32 [..., d]."""
        return self.values.float() * self.scales


def quantized(x: Tensor) -> Quantized:
    """Quantize the rows of a tensor [..., d], finite and of any floating dtype."""
    wide = x.float()
    scales = (wide.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=LEAST_SCALE)
    # The product may round to just above the largest number.
    scaled = (wide * scales.reciprocal()).clamp(-LARGEST, LARGEST)
    return Quantized(scaled.to(DTYPE), scales)


def quantize_rows(x: Sequence[Tensor], *, gelu: bool, fused: bool) -> list[Quantized]:
    """Quantize the tokens of one or two streams, each read once and written once.

    Args:
        x: The streams, each [B, N, d].
        gelu: Whether what is quantized is GELU(tanh) of them, in float32.
        fused: Whether Triton computes all of it in one launch.
    """
    if fused:
        from flowmo.model.kernels.triton_quantize import quantize_rows as launch

        return pairs(launch(list(x), gelu))
    if gelu:
        x = [F.gelu(value.float(), approximate="tanh") for value in x]
    return [quantized(value) for value in x]


def pairs(tensors: Sequence[Tensor]) -> list[Quantized]:
    """What a kernel gives, the values of all streams and then their scales, by stream."""
    half = len(tensors) // 2
    return [Quantized(*pair) for pair in zip(tensors[:half], tensors[half:], strict=True)]
