"""The Triton kernel of :mod:`flowmo.model.kernels.qkv`: one program a token of either stream.

It reads each product once and writes q, k and v once, in the joint sequence: 6 activations instead
of the 16 of norms that write float32, concatenations and copies.
"""

import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from flowmo.model.kernels import choice
from flowmo.model.transformer import RMS_NORM_EPS

_WARPS = 4


@triton.jit  # type: ignore[untyped-decorator]
def _rotated(  # type: ignore[no-untyped-def]
    source,
    scales,
    cos,
    sin,
    eps,
    head,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HEADS_PADDED: tl.constexpr,
    PADDED: tl.constexpr,
):
    """The heads of one token at ``source``, normed and rotated: float32 [HEADS_PADDED, PADDED]."""
    column = tl.arange(0, PADDED)
    inside = (head < HEADS)[:, None] & (column < DIM)[None, :]
    offset = head[:, None] * DIM + column[None, :]
    x = tl.load(source + offset, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(scales + column, mask=column < DIM, other=0.0)
    norm = 1.0 / tl.sqrt(tl.sum(x * x, 1) / DIM + eps)
    x = x * norm[:, None] * scale[None, :]
    # Pairs are adjacent: one thread has both, and loads and stores stay contiguous.
    even, odd = tl.split(tl.reshape(x, (HEADS_PADDED, PADDED // 2, 2)))
    turned = tl.join(even * cos - odd * sin, even * sin + odd * cos)
    return tl.reshape(turned, (HEADS_PADDED, PADDED))


@triton.jit  # type: ignore[untyped-decorator]
def qkv_kernel(  # type: ignore[no-untyped-def]
    source0,
    source1,
    q_scale0,
    q_scale1,
    k_scale0,
    k_scale1,
    table,
    q,
    k,
    v,
    length0,
    length1,
    eps,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HEADS_PADDED: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES0: tl.constexpr,
    QUERIES1: tl.constexpr,
):
    """Program (i, b) computes token i of row b of the joint sequence."""
    token = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    length = length0 + length1
    width: tl.constexpr = HEADS * DIM
    head = tl.arange(0, HEADS_PADDED)
    column = tl.arange(0, PADDED)
    inside = (head < HEADS)[:, None] & (column < DIM)[None, :]
    offset = head[:, None] * DIM + column[None, :]
    pair = tl.arange(0, PADDED // 2)
    angle = token * (DIM // 2) + pair
    known = pair < DIM // 2
    cos = tl.load(table + angle, mask=known, other=0.0)[None, :]
    sin = tl.load(table + length * (DIM // 2) + angle, mask=known, other=0.0)[None, :]
    if token < length0:
        source = source0 + (row * length0 + token) * ((2 + QUERIES0) * width)
        keys = source + QUERIES0 * width
        q_scale = q_scale0
        k_scale = k_scale0
    else:
        source = source1 + (row * length1 + (token - length0)) * ((2 + QUERIES1) * width)
        keys = source + QUERIES1 * width
        q_scale = q_scale1
        k_scale = k_scale1
    # A stream without queries has no place in q.
    q_token = token - length0 * (1 - QUERIES0)
    q_to = q + (row * (length0 * QUERIES0 + length1 * QUERIES1) + q_token) * width + offset
    asks = inside
    if QUERIES0 + QUERIES1 < 2:
        asks = inside & ((token < length0) == (QUERIES0 == 1))
    turned = _rotated(source, q_scale, cos, sin, eps, head, HEADS, DIM, HEADS_PADDED, PADDED)
    tl.store(q_to, turned.to(q.dtype.element_ty), mask=asks)
    to = (row * length + token) * width + offset
    turned = _rotated(keys, k_scale, cos, sin, eps, head, HEADS, DIM, HEADS_PADDED, PADDED)
    tl.store(k + to, turned.to(k.dtype.element_ty), mask=inside)
    value = tl.load(keys + width + offset, mask=inside, other=0.0)
    tl.store(v + to, value, mask=inside)


def _joint_qkv(
    projected: list[Tensor],
    q_scales: list[Tensor],
    k_scales: list[Tensor],
    table: Tensor,
    heads: int,
) -> list[Tensor]:
    first, second = (value.contiguous() for value in projected)
    rows, (dim,) = first.shape[0], k_scales[0].shape
    alive = [value.shape[2] == 3 * heads * dim for value in projected]
    lengths = (first.shape[1], second.shape[1])
    queries = sum(length for length, has in zip(lengths, alive, strict=True) if has)
    q = first.new_empty(rows, queries, heads, dim)
    k, v = (first.new_empty(rows, sum(lengths), heads, dim) for _ in range(2))
    wrap_triton(qkv_kernel)[(sum(lengths), rows)](
        first,
        second,
        q_scales[0],
        q_scales[-1],
        *k_scales,
        table.contiguous(),
        q,
        k,
        v,
        *lengths,
        RMS_NORM_EPS,
        HEADS=heads,
        DIM=dim,
        HEADS_PADDED=triton.next_power_of_2(heads),
        PADDED=triton.next_power_of_2(dim),
        QUERIES0=int(alive[0]),
        QUERIES1=int(alive[1]),
        num_warps=_WARPS,
    )
    return [q, k, v]


_operator = triton_op("flowmo::joint_qkv", _joint_qkv, mutates_args=())


def joint_qkv(
    projected: list[Tensor],
    q_scales: list[Tensor],
    k_scales: list[Tensor],
    table: Tensor,
    heads: int,
) -> list[Tensor]:
    """Launch the kernel: q [B, alive tokens, H, C], k and v [B, L, H, C].

    See :func:`flowmo.model.kernels.qkv.joint_qkv`; ``q_scales`` are those of streams that have
    queries, at least one. On a CPU it runs in Triton's interpreter only.
    """
    compute = _operator if choice.on_gpu(projected[0]) else _joint_qkv
    out: list[Tensor] = compute(projected, q_scales, k_scales, table, heads)
    return out
