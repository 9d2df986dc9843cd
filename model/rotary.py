"""Rotary positions on three axes (SPEC "One transformer", step 3).

Shape legend: N tokens, n dimensions of one axis, C head dimension.
"""

from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from flowmo.model.config import TokenPositions

ROPE_THETA = 10_000.0

MAX_TABLES = 64
"""How many tables are kept; one of FlowMo-Lo's decoder is 0.5 MB."""


class TableKey(NamedTuple):
    """All that a table of the joint sequence depends on, and where it lies."""

    rule: TokenPositions
    length: int
    rows: int
    columns: int
    axes_dims: tuple[int, ...]
    device: torch.device


_tables: dict[TableKey, Tensor] = {}


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


def kept_table(key: TableKey) -> Tensor:
    """The rotary table of a joint sequence, computed once for each key of the process.

    A pure function whose results are kept: on the CPU in float64 a table of FlowMo-Lo takes as long
    as a block on a GPU. Nothing changes a table, so threads and models share them.

    Compiled code reads a table that is kept and else has the computation in its graph; exported
    graphs always have it, since they outlive the process.

    Args:
        key: What table, and on which device.

    Returns:
        Float32 [2, K + N, C / 2] of :func:`rotary_table`.
    """
    if torch.compiler.is_exporting():
        return _joint_table(key).to(key.device)
    table = _tables.get(key)
    if table is not None:
        return table
    if torch.compiler.is_compiling():
        return _joint_table(key).to(key.device)
    # A tensor of inference mode could take no part in training later.
    with torch.inference_mode(mode=False), torch.device("cpu"):
        table = _joint_table(key).to(key.device)
    # What tracers and transforms make (fake tensors, wrappers) is theirs alone.
    if type(table) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(table):
        for oldest in list(_tables)[: max(0, len(_tables) - MAX_TABLES + 1)]:
            _tables.pop(oldest, None)
        _tables[key] = table
    return table


def _joint_table(key: TableKey) -> Tensor:
    positions = joint_positions(key.length, (key.rows, key.columns), key.rule)
    return rotary_table(positions, key.axes_dims)


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
