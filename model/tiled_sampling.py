"""Sampling a picture of any size: one noise field, tiles that agree at every step (supplement C.2).

The state is the whole frame. At each step every tile's velocity is computed from its crop of the
state, under the condition of its own tokens, and the velocities are blended with the weights of
:class:`flowmo.model.tiling.Tiling` before the step is taken. So neighbours see each other's pixels
while both are being made, and their seams vanish. A picture of one tile is sampled as ever.

Shape legend: T tiles, K tokens a tile, S tile side, H and W the frame's sides.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.sampler import (
    ConditionalVelocity,
    Observer,
    Velocity,
    euler,
    guided,
    noise,
    time_grid,
)
from flowmo.model.tiling import Tiling, axis_weights

DEFAULT_TILES_AT_ONCE = 4


def blended(
    velocity: ConditionalVelocity,
    condition: Tensor,
    null: Tensor,
    tiling: Tiling,
    sampler: SamplerConfig,
    *,
    tiles_at_once: int = DEFAULT_TILES_AT_ONCE,
    chosen: Sequence[int] | None = None,
) -> Velocity:
    """The velocity field of a whole frame, out of the tiles'.

    Args:
        velocity: The network, of rows of tiles.
        condition: [T, K, D + 1], one row a tile.
        null: The null condition, of the same shape.
        tiling: Where the tiles are.
        sampler: The guidance's weight and interval.
        tiles_at_once: The most tiles of one network call; memory grows with it.
        chosen: The tiles that are computed, ascending; all by default. ``condition`` has a row for
            each of them. Elsewhere the velocity is zero.

    Returns:
        A field of states [1, 3, H, W].

    Raises:
        ConfigError: There are not as many conditions as tiles.
    """
    numbers = range(tiling.count) if chosen is None else chosen
    if len(condition) != len(numbers):
        raise ConfigError(
            f"{len(numbers)} tiles need as many conditions, got {len(condition)}; were the tokens "
            f"made for another size?"
        )
    if tiling.count == 1:
        return guided(velocity, condition, null, sampler)
    device = condition.device
    across = torch.from_numpy(axis_weights(tiling.lefts, tiling.size)).to(device, torch.float32)
    down = torch.from_numpy(axis_weights(tiling.tops, tiling.size)).to(device, torch.float32)
    groups = [
        (numbers[begin : begin + tiles_at_once], slice(begin, begin + tiles_at_once))
        for begin in range(0, len(numbers), tiles_at_once)
    ]

    def field(x: Tensor, t: float) -> Tensor:
        out = torch.zeros_like(x)
        for group, rows in groups:
            boxes = [tiling[number].box for number in group]
            crops = torch.cat([x[:, :, box[0], box[1]] for box in boxes])
            tiles = guided(velocity, condition[rows], null[rows], sampler)(crops, t)
            for number, box, v in zip(group, boxes, tiles.unbind(0), strict=True):
                row, column = divmod(number, tiling.columns)
                out[0, :, box[0], box[1]] += v * down[row][:, None] * across[column]
        return out

    return field


def sample_tiles(
    velocity: ConditionalVelocity,
    condition: Tensor,
    null: Tensor,
    tiling: Tiling,
    sampler: SamplerConfig,
    *,
    seed: int,
    observer: Observer | None = None,
    tiles_at_once: int = DEFAULT_TILES_AT_ONCE,
) -> Tensor:
    """A picture of any size from its tiles' conditions.

    Args:
        velocity: As of :func:`blended`, like the next three.
        condition: [T, K, D + 1].
        null: [T, K, D + 1].
        tiling: Where the tiles are.
        sampler: The time grid and guidance.
        seed: 0 <= seed < 2^63; with the frame's shape it decides the one noise field.
        observer: Sees each step of the whole frame.
        tiles_at_once: The most tiles of one network call.

    Returns:
        float32 [3, H, W] in [-1, 1], the picture without its padding.

    Raises:
        ConfigError: There are not as many conditions as tiles, or a seed is out of range.
    """
    width, height = tiling.frame
    start = noise([seed], (3, height, width)).to(condition.device)
    field = blended(velocity, condition, null, tiling, sampler, tiles_at_once=tiles_at_once)
    frame = euler(field, start, time_grid(sampler), observer=observer)
    return frame[0, :, : tiling.height, : tiling.width].clamp(-1, 1)
