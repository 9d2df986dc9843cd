"""From the products of both streams to what attention reads: RMS norms, rotation, joint layout.

Shape legend: B rows, N tokens of a stream, L tokens of both, H heads, C head dimension, d = H C.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmo.model.rotary import apply_rotary
from flowmo.model.transformer import RMS_NORM_EPS


def joint_qkv(
    projected: Sequence[Tensor],
    q_scales: Sequence[Tensor | None],
    k_scales: Sequence[Tensor],
    table: Tensor,
    heads: int,
    *,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normed and rotated queries and keys, and values, of the joint sequence.

    Args:
        projected: Both streams' products in the sequence's order, [B, N, 3 d] in the layout (q, k,
            v) x heads, or [B, N, 2 d] of (k, v) for a stream without queries.
        q_scales: Each stream's learned scale of the query norm, float32 [C], with the scores'
            scale in it; None for a stream without queries.
        k_scales: The same of the key norm.
        table: The rotary table of the joint sequence, float32 [2, L, C / 2].
        heads: H.
        fused: Whether Triton computes all of it in one launch.

    Returns:
        Queries of the streams that have some, keys and values, [B, H, L, C]; from Triton they lie
        in memory as [B, L, H, C].
    """
    if fused:
        from flowmo.model.kernels.triton_qkv import joint_qkv as launch

        q, k, v = launch(
            list(projected), [s for s in q_scales if s is not None], list(k_scales), table, heads
        )
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    queries, keys, values, start = [], [], [], 0
    for stream, q_scale, k_scale in zip(projected, q_scales, k_scales, strict=True):
        rotations = table[:, start : start + stream.shape[1]]
        start += stream.shape[1]
        parts = stream.unflatten(-1, (2 if q_scale is None else 3, heads, -1))
        *own, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if q_scale is not None:
            queries.append(norm_and_rotate(own[0], q_scale, rotations))
        keys.append(norm_and_rotate(k, k_scale, rotations))
        values.append(v)
    q = torch.cat(queries, dim=2) if len(queries) == 2 else queries[0]
    return q, torch.cat(keys, dim=2), torch.cat(values, dim=2)


def norm_and_rotate(x: Tensor, scale: Tensor, table: Tensor) -> Tensor:
    """RMS norm and rotation in float32, one cast back.

    Args:
        x: [..., N, C].
        scale: Float32 [C].
        table: Float32 [2, N, C / 2].
    """
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + RMS_NORM_EPS) * scale
    return apply_rotary(normed, table).to(x.dtype)
