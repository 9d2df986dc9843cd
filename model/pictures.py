"""Pictures of any size through a model: tiles to tokens, tokens to pixels, whole or a region."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.errors import TokenError
from flowmo.model.inference import InferenceModel
from flowmo.model.layout import PictureLayout
from flowmo.model.network import with_mask
from flowmo.model.quantizer import ids_to_signs
from flowmo.model.sampler import Observer, noise, time_grid
from flowmo.model.tiled_sampling import DEFAULT_TILES_AT_ONCE, sample_frame
from flowmo.model.tiling import Tiling, TilingPart, frame_pixels
from flowmo.model.tokens import Tokens

Region = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the picture."""


def tile_batches(
    pixels: NDArray[np.uint8], tiling: Tiling, tiles_at_once: int = DEFAULT_TILES_AT_ONCE
) -> Iterator[list[NDArray[np.uint8]]]:
    """The tiles of a picture, some at a time, in their order.

    Args:
        pixels: uint8 [H, W, 3].
        tiling: The tiling of a picture of this size.
        tiles_at_once: The most tiles of a batch.

    Yields:
        Squares uint8 [S, S, 3].
    """
    frame = frame_pixels(pixels, tiling)
    for begin in range(0, tiling.count, tiles_at_once):
        numbers = range(begin, min(begin + tiles_at_once, tiling.count))
        yield [frame[tiling[number].box] for number in numbers]


def part_of(layout: PictureLayout, region: Region | None) -> TilingPart:
    """The tiles that a region of a picture needs; all of them without a region.

    Raises:
        ConfigError: The region is empty or not inside the picture.
    """
    tiling = layout.tiling
    if region is None:
        return tiling.part(0, 0, tiling.width, tiling.height)
    return tiling.part(*region)


def decode_picture(
    model: InferenceModel,
    tokens: Tokens,
    layout: PictureLayout,
    *,
    seed: int,
    sampler: SamplerConfig | None = None,
    observer: Observer | None = None,
    region: Region | None = None,
    tiles_at_once: int = DEFAULT_TILES_AT_ONCE,
) -> Tensor:
    """The tiles of a picture as pixels, blended at every step.

    A region is decoded of the tiles that touch it. It is equal to its part of the whole if one step
    is made, or if no tile that is left out shares a pixel with one that is not (with an overlap of
    0 that is so if the sides are multiples of the tile's); else tiles at the edge have seen less of
    their neighbours, and the pixels are near.

    Args:
        model: The network.
        tokens: The tokens of all tiles.
        layout: The picture and its tiles.
        seed: 0 <= seed < 2^63; with the frame's shape it decides the one noise field.
        sampler: The time grid and guidance; the model's own by default.
        observer: Sees each step of all that is decoded.
        region: What is decoded of the tiled picture; all by default.
        tiles_at_once: The most tiles of one network call; memory grows with it.

    Returns:
        float32 [3, H, W] in [-1, 1], on the model's device: the tiled picture (the model's square,
        if the picture was cropped, padded or stretched to one) or its region.

    Raises:
        ConfigError: A seed or the region is out of range.
        TokenError: The tokens are of another model, or of another number of tiles.
    """
    if tokens.tile_count != layout.tiles:
        raise TokenError(
            f"tokens of {tokens.tile_count} tiles came, a picture of {layout.width} x "
            f"{layout.height} pixels takes {layout.tiles}"
        )
    model.check_tokens([tokens.tile(0)])
    return decode_tiles(
        model,
        _signs(tokens, part_of(layout, region).numbers),
        layout,
        seed=seed,
        sampler=sampler,
        observer=observer,
        region=region,
        tiles_at_once=tiles_at_once,
    )


def decode_tiles(
    model: InferenceModel,
    quantized: Tensor,
    layout: PictureLayout,
    *,
    seed: int,
    sampler: SamplerConfig | None = None,
    observer: Observer | None = None,
    region: Region | None = None,
    tiles_at_once: int = DEFAULT_TILES_AT_ONCE,
) -> Tensor:
    """A picture of the quantized code of its tiles; see :func:`decode_picture`.

    Args:
        model: The network.
        quantized: [T, K, D], of the tiles that the region needs.
        layout: The picture and its tiles.
        seed: As there, like all that follow.
        sampler: As there.
        observer: As there.
        region: As there.
        tiles_at_once: As there.

    Raises:
        ConfigError: A seed or the region is out of range, or there are not as many rows as tiles.
    """
    chosen = sampler or model.config.sampler
    part = part_of(layout, region)
    tiling, (width, height) = part.tiling, layout.tiling.frame
    x, y, w, h = region or (0, 0, layout.tiling.width, layout.tiling.height)
    start = noise([seed], (3, height, width))
    if tiling.frame != (width, height):
        right, below = part.left + tiling.width, part.top + tiling.height
        start = start[:, :, part.top : below, part.left : right].clone()
    times = time_grid(chosen)
    # One look-up serves the whole run; the last time, 0, is never evaluated.
    table = dict(zip(times, model.modulation(times[:-1]).split(1), strict=False))

    def velocity(state: Tensor, t: float, rows: Tensor) -> Tensor:
        return model.velocity_modulated(state, table[t], rows)

    with torch.inference_mode():
        frame = sample_frame(
            velocity,
            with_mask(quantized.to(model.device, model.dtype)),
            tiling,
            chosen,
            start.to(model.device),
            observer=observer,
            tiles_at_once=tiles_at_once,
        )
    left, top = x - part.left, y - part.top
    return frame[0, :, top : top + h, left : left + w]


def _signs(tokens: Tokens, numbers: Sequence[int]) -> Tensor:
    shape = (tokens.tile_count, tokens.code_length, tokens.ids_per_token)
    ids = torch.from_numpy(tokens.ids.reshape(shape)[list(numbers)])
    return ids_to_signs(ids, tokens.group_bits)
