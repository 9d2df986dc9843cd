"""Sampling a picture of any size: one noise field, tiles that agree at every step (supplement C.2).

The state is the whole frame. At each step every tile's velocity is computed from its crop of the
state, under the condition of its own tokens, and the velocities are blended with the weights of
:class:`flowmo.model.tiling.Tiling` before the step is taken. So neighbours see each other's pixels
while both are being made, and their seams vanish. A picture of one tile is sampled as ever.

Shape legend: T tiles, K tokens a tile, S tile side, H and W the frame's sides.
"""

from itertools import pairwise

import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.sampler import (
    ConditionalVelocity,
    Observer,
    SamplerStep,
    Velocity,
    euler,
    guided,
    time_grid,
)
from flowmo.model.tiling import Tiling, axis_weights

DEFAULT_TILES_AT_ONCE = 4


def blended(
    velocity: ConditionalVelocity,
    condition: Tensor,
    tiling: Tiling,
    sampler: SamplerConfig,
    *,
    tiles_at_once: int = DEFAULT_TILES_AT_ONCE,
) -> Velocity:
    """The velocity field of a whole frame, out of the tiles'.

    Args:
        velocity: The network, of rows of tiles.
        condition: [T, K, D + 1], one row a tile; the null condition is zeros.
        tiling: Where the tiles are.
        sampler: The guidance's weight and interval.
        tiles_at_once: The most tiles of one network call; memory grows with it.

    Returns:
        A field of states [1, 3, H, W]. Where there are several tiles, its result is overwritten by
        the next call.

    Raises:
        ConfigError: There are not as many conditions as tiles, or no tile may be computed at once.
    """
    if len(condition) != tiling.count:
        raise ConfigError(
            f"{tiling.count} tiles need as many conditions, got {len(condition)}; were the tokens "
            f"made for another size?"
        )
    if tiles_at_once < 1:
        raise ConfigError(f"at least one tile is computed at once, got {tiles_at_once}")
    if tiling.count == 1:
        return guided(velocity, condition, torch.zeros_like(condition), sampler)
    device = condition.device
    across = torch.from_numpy(axis_weights(tiling.lefts, tiling.size)).to(device, torch.float32)
    down = torch.from_numpy(axis_weights(tiling.tops, tiling.size)).to(device, torch.float32)
    out = torch.empty(0)

    def field(x: Tensor, t: float) -> Tensor:
        nonlocal out
        # One frame for all steps: of a large picture a frame is hundreds of megabytes.
        out = out.zero_() if out.shape == x.shape else torch.zeros_like(x)
        for begin in range(0, tiling.count, tiles_at_once):
            rows = condition[begin : begin + tiles_at_once]
            tiles = [tiling[begin + i] for i in range(len(rows))]
            crops = torch.cat([x[:, :, tile.box[0], tile.box[1]] for tile in tiles])
            made = guided(velocity, rows, torch.zeros_like(rows), sampler)(crops, t)
            for tile, v in zip(tiles, made.unbind(0), strict=True):
                row, column = divmod(tile.index, tiling.columns)
                weighted = v * down[row][:, None] * across[column]
                out[0, :, tile.box[0], tile.box[1]] += weighted
        return out

    return field


def sample_frame(
    velocity: ConditionalVelocity,
    condition: Tensor,
    tiling: Tiling,
    sampler: SamplerConfig,
    start: Tensor,
    *,
    observer: Observer | None = None,
    tiles_at_once: int = DEFAULT_TILES_AT_ONCE,
) -> Tensor:
    """The frame of a picture from its tiles' conditions and its noise.

    Beside the network two frames are kept, the state and its velocity; an observer has two more.

    Args:
        velocity: As of :func:`blended`, like the next three.
        condition: [T, K, D + 1].
        tiling: Where the tiles are.
        sampler: The time grid and guidance.
        start: Unit normal noise [1, 3, H, W]; that of several tiles is overwritten.
        observer: Sees each step of the whole frame.
        tiles_at_once: The most tiles of one network call.

    Returns:
        float32 [1, 3, H, W], clipped to [-1, 1].

    Raises:
        ConfigError: There are not as many conditions as tiles.
    """
    field = blended(velocity, condition, tiling, sampler, tiles_at_once=tiles_at_once)
    times = time_grid(sampler)
    if tiling.count == 1:
        return euler(field, start, times, observer=observer).clamp(-1, 1)
    x = start
    for step, (t, t_next) in enumerate(pairwise(times), start=1):
        v = field(x, t)
        estimate = None if observer is None else x - t * v
        x.sub_(v.mul_(t - t_next))  # what euler does, in place
        if observer is not None and estimate is not None:
            seen = SamplerStep(step=step, steps=len(times) - 1, t=t, x=x.clone(), estimate=estimate)
            observer(seen)
    return x.clamp_(-1, 1)
