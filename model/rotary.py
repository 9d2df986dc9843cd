"""Rotary positions on three axes (SPEC "One transformer", step 3).

Shape legend: N tokens, n dimensions of one axis, C head dimension.
"""

from math import isqrt

import torch
from torch import Tensor

from flowmo.model.config import TokenPositions

ROPE_THETA = 10_000.0


def image_positions(rows: int, columns: int) -> Tensor:
    """Positions (0, r, c) of the patches in row-major order, float64 [rows * columns, 3]."""
    r, c = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    return torch.stack([torch.zeros_like(r), r, c], dim=-1).reshape(-1, 3)


def diagonal_positions(length: int) -> Tensor:
    """Positions (i, i, i) of the latent tokens, float64 [length, 3] (the published rule)."""
    return torch.arange(length, dtype=torch.float64)[:, None].expand(length, 3)


def grid_positions(length: int, rows: int, columns: int) -> Tensor:
    """Positions (0, r, c) of latent tokens spread evenly over the patches, float64 [length, 3].

    The tokens form a square of side sqrt(length); each stands at the centre of its cell, in units
    of patches, so that a token and the patches it covers are near each other in attention.
    """
    side = isqrt(length)
    cells = torch.arange(side, dtype=torch.float64) + 0.5
    r, c = torch.meshgrid(cells * rows / side - 0.5, cells * columns / side - 0.5, indexing="ij")
    return torch.stack([torch.zeros_like(r), r, c], dim=-1).reshape(-1, 3)


def joint_positions(length: int, grid: tuple[int, int], rule: TokenPositions) -> Tensor:
    """Positions of the joint sequence, latent tokens first, float64 [K + N, 3]."""
    tokens = diagonal_positions(length) if rule == "diagonal" else grid_positions(length, *grid)
    return torch.cat([tokens, image_positions(*grid)])


def rotary_table(positions: Tensor, axes_dims: tuple[int, ...]) -> Tensor:
    """Cosines and sines of every token's rotation angles.

    An axis with n dimensions has the frequencies theta^(-2j/n), j = 0 ... n/2 - 1. Angles are
    computed in float64, because a position of 255 times a frequency of 1 must keep its phase.

    Args:
        positions: [N, axes], float64.
        axes_dims: The even number of head dimensions of each axis, summing to C.

    Returns:
        Float32 [2, N, C / 2]: cos, then sin.
    """
    angles = []
    for axis, dims in enumerate(axes_dims):
        exponent = torch.arange(0, dims, 2, dtype=torch.float64) / max(dims, 1)
        angles.append(positions[:, axis, None] * ROPE_THETA**-exponent)
    angle = torch.cat(angles, dim=-1)
    return torch.stack([angle.cos(), angle.sin()]).float()


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the adjacent pairs (2j, 2j + 1) of the last dimension, in float32 or better.

    Args:
        x: [..., N, C].
        table: [2, N, C / 2] from :func:`rotary_table`.

    Returns:
        The rotated x, in x's dtype.
    """
    cos, sin = table[0], table[1]
    pairs = x.to(table.dtype).unflatten(-1, (-1, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
