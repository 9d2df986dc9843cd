"""The Triton kernel of :mod:`flowmo.model.kernels.quantize`: one program a token of any stream.

A token stays in registers between the search for its largest magnitude and its rounding: it is read
once. Both streams share a launch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from flowmo.model.kernels import choice
from flowmo.model.kernels.quantize import DTYPE, LARGEST, LEAST_SCALE

_LARGEST = tl.constexpr(LARGEST)
_LEAST_SCALE = tl.constexpr(LEAST_SCALE)


@triton.jit
def scale_of(value):  # type: ignore[no-untyped-def]
    """The scale of a row in float32; what lies outside it is zero."""
    return tl.maximum(tl.max(tl.abs(value), 0) / _LARGEST, _LEAST_SCALE)


@triton.jit
def in_fp8(value, scale):  # type: ignore[no-untyped-def]
    """A row in float32 by its scale, in fp8."""
    scaled = value * (1.0 / scale)
    return tl.minimum(tl.maximum(scaled, -_LARGEST), _LARGEST).to(tl.float8e4nv)


@triton.jit  # type: ignore[untyped-decorator]
def quantize_kernel(  # type: ignore[no-untyped-def]
    x0,
    x1,
    values0,
    values1,
    scales0,
    scales1,
    tokens0,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    GELU: tl.constexpr,
):
    """Program i quantizes token i; those of all rows of the first stream come first."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    if token < tokens0:
        x = x0 + token * WIDTH
        values = values0 + token * WIDTH
        scales = scales0 + token
    else:
        x = x1 + (token - tokens0) * WIDTH
        values = values1 + (token - tokens0) * WIDTH
        scales = scales1 + (token - tokens0)
    value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        # x (1 + tanh u) / 2 is x / (1 + exp(-2 u)). Beyond 10 it is 0 or x, and exp would overflow.
        value = tl.maximum(value, -10.0)
        near = tl.minimum(value, 10.0)
        u = 0.7978845608028654 * (near + 0.044715 * near * near * near)
        value = value / (1.0 + tl.exp(-2.0 * u))
    scale = scale_of(value)
    tl.store(scales, scale)
    tl.store(values + column, in_fp8(value, scale), mask=inside)


def warps(block: int) -> int:
    """Of a program: 16 numbers a thread, and at most 32."""
    return 4 if block <= 2048 else 8


def _quantize_rows(x: list[Tensor], gelu: bool) -> list[Tensor]:
    x = [value.contiguous() for value in x]
    width = x[0].shape[-1]
    values = [torch.empty_like(value, dtype=DTYPE) for value in x]
    scales = [value.new_empty((*value.shape[:-1], 1), dtype=torch.float32) for value in x]
    tokens = [value.shape[0] * value.shape[1] for value in x]
    block = triton.next_power_of_2(width)
    wrap_triton(quantize_kernel)[(sum(tokens),)](
        x[0],
        x[-1],
        values[0],
        values[-1],
        scales[0],
        scales[-1],
        tokens[0],
        WIDTH=width,
        BLOCK=block,
        GELU=gelu,
        num_warps=warps(block),
    )
    return values + scales


_operator = triton_op("flowmo::quantize_rows", _quantize_rows, mutates_args=())


def quantize_rows(x: list[Tensor], gelu: bool) -> list[Tensor]:
    """Launch the kernel; see :func:`flowmo.model.kernels.quantize.quantize_rows`.

    It runs on a CUDA device of compute capability 8.9 or above, and on a CPU in Triton's
    interpreter only.

    Returns:
        The values of all streams, then their scales.
    """
    compute = _operator if choice.on_gpu(x[0]) else _quantize_rows
    out: list[Tensor] = compute(x, gelu)
    return out
