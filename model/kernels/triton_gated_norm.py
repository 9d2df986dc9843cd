"""The Triton kernel of :mod:`flowmo.model.kernels.gated_norm`: one program a token of any stream.

It reads x and the update once and writes the sum and the normed sum once, and both streams share a
launch: the small one costs none of its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from flowmo.model.kernels import choice
from flowmo.model.kernels.quantize import DTYPE
from flowmo.model.kernels.triton_quantize import in_fp8, scale_of
from flowmo.model.transformer import LAYER_NORM_EPS

_WARPS = 4


@triton.jit  # type: ignore[untyped-decorator]
def gated_norm_kernel(  # type: ignore[no-untyped-def]
    x0,
    x1,
    update0,
    update1,
    added0,
    added1,
    normed0,
    normed1,
    scales0,
    scales1,
    modulation,
    length0,
    length1,
    which0,
    which1,
    stream_stride,
    chunk_stride,
    row_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    GATE: tl.constexpr,
    FIRST: tl.constexpr,
    MODULATED: tl.constexpr,
    QUANTIZED: tl.constexpr,
):
    """Program (i, b) computes token i of row b; tokens of the first stream come first."""
    token = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    if token < length0:
        at = (row * length0 + token) * WIDTH
        x = x0 + at
        update = update0 + at
        added = added0 + at
        normed = normed0 + at
        scales = scales0 + row * length0 + token
        mod = modulation + which0 * stream_stride + row * row_stride
    else:
        at = (row * length1 + (token - length0)) * WIDTH
        x = x1 + at
        update = update1 + at
        added = added1 + at
        normed = normed1 + at
        scales = scales1 + row * length1 + (token - length0)
        mod = modulation + which1 * stream_stride + row * row_stride
    value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
    if GATE >= 0:
        change = tl.load(update + column, mask=inside, other=0.0).to(tl.float32)
        if MODULATED:
            gate = tl.load(mod + GATE * chunk_stride + column, mask=inside, other=0.0)
            change = change * gate.to(tl.float32)
        value = value + change
        tl.store(added + column, value.to(added0.dtype.element_ty), mask=inside)
    if FIRST >= 0:
        mean = tl.sum(value, 0) / WIDTH
        centred = tl.where(inside, value - mean, 0.0)
        variance = tl.sum(centred * centred, 0) / WIDTH
        out = centred * (1.0 / tl.sqrt(variance + eps))
        if MODULATED:
            shift = tl.load(mod + FIRST * chunk_stride + column, mask=inside, other=0.0)
            scale = tl.load(mod + (FIRST + 1) * chunk_stride + column, mask=inside, other=0.0)
            out = out * scale.to(tl.float32) + shift.to(tl.float32)
        if QUANTIZED:
            fp8_scale = scale_of(out)
            tl.store(scales, fp8_scale)
            tl.store(normed + column, in_fp8(out, fp8_scale), mask=inside)
        else:
            tl.store(normed + column, out.to(normed0.dtype.element_ty), mask=inside)


def _gated_norm(
    x: list[Tensor],
    update: list[Tensor],
    modulation: Tensor | None,
    which: list[int],
    gate: int,
    first: int,
    quantize: bool,
) -> list[Tensor]:
    x = [value.contiguous() for value in x]
    update = [value.contiguous() for value in update]
    rows, _, width = x[0].shape
    added = [torch.empty_like(value) for value in x] if gate >= 0 else []
    normed, scales = [], []
    if first >= 0:
        dtype = DTYPE if quantize else x[0].dtype
        normed = [torch.empty_like(value, dtype=dtype) for value in x]
    if first >= 0 and quantize:
        scales = [value.new_empty((*value.shape[:2], 1), dtype=torch.float32) for value in x]
    lengths = [value.shape[1] for value in x] + [0] * (2 - len(x))
    strides = (0, 0, 0)
    if modulation is not None:
        streams, chunks, given = (int(stride) for stride in modulation.stride()[:3])
        strides = (streams, chunks, given if modulation.shape[2] > 1 else 0)

    def both(values: list[Tensor]) -> tuple[Tensor, Tensor]:
        # What a launch does not read or write is some tensor of the right dtype.
        return (values[0], values[-1]) if values else (x[0], x[0])

    wrap_triton(gated_norm_kernel)[(sum(lengths), rows)](
        *both(x),
        *both(update),
        *both(added),
        *both(normed),
        *both(scales),
        x[0] if modulation is None else modulation,
        *lengths,
        which[0],
        which[-1],
        *strides,
        LAYER_NORM_EPS,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        GATE=gate,
        FIRST=first,
        MODULATED=modulation is not None,
        QUANTIZED=quantize,
        num_warps=_WARPS,
    )
    return added + normed + scales


_operator = triton_op("flowmo::gated_norm", _gated_norm, mutates_args=())


def gated_norm(
    x: list[Tensor],
    update: list[Tensor],
    modulation: Tensor | None,
    which: list[int],
    gate: int,
    first: int,
    quantize: bool,
) -> list[Tensor]:
    """Launch the kernel; see :func:`flowmo.model.kernels.gated_norm.gated_norm`.

    It runs on a CUDA device, and on a CPU in Triton's interpreter only.

    Args:
        x: As there.
        update: As there.
        modulation: [streams, 6, B or 1, d], contiguous in its last dimension, or None.
        which: As there.
        gate: As there; -1 to add nothing.
        first: As there; -1 to norm nothing.
        quantize: As there.

    Returns:
        The updated streams, if something is added, then the normed ones, if something is normed,
        and then their scales, if they are quantized.
    """
    compute = _operator if choice.on_gpu(x[0]) else _gated_norm
    out: list[Tensor] = compute(x, update, modulation, which, gate, first, quantize)
    return out
