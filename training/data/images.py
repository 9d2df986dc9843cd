"""Bytes to training crops: read, shrink, crop, mirror. All on uint8.

Reading and resizing are those of :mod:`flowmo.imaging`, so that a model is trained on the pixels
that a server will give it. There are two stages, the first of which can be cached:
:func:`decode_image` gives an RGB array of bounded size, :func:`augment` takes a square crop of it.
"""

import math

import numpy as np
from PIL import Image

from flowmo.imaging.fit import read_square, resize_square, shrink
from flowmo.imaging.reading import Pixels, read_image
from flowmo.training.config import DataConfig
from flowmo.training.data.augmentation import jitter_colours

MAX_PIXELS = 178_000_000
"""Of an image that is trained or measured on. Such files are the user's own, not a stranger's, so
this is as much as Pillow bears."""


def decode_image(data: bytes, size: int, config: DataConfig) -> Pixels:
    """Read an image file, as much of it as crops need.

    Args:
        data: The file's bytes.
        size: Side S of the crops in pixels.
        config: Where crops will be.

    Returns:
        For centred crops the square itself, uint8 [S, S, 3]; for random ones the whole picture,
        uint8 [h, w, 3], whose shorter side is at most ceil(S / ``min_crop_scale``).

    Raises:
        ImageError: The bytes are corrupt, truncated, of an unknown format, or too large an image.
    """
    if config.crop == "centre":
        return read_training_square(data, size)
    short_side = stored_short_side(size, config)
    # Twice the crops' side would be kept for what is measured and served; it costs twice the time,
    # and a random crop is as good of either.
    image = read_image(data, max_pixels=MAX_PIXELS, side=short_side, margin=1.0)
    return shrink(image, short_side)


def read_training_square(data: bytes, size: int) -> Pixels:
    """The largest centred square of an image file, resized: uint8 [S, S, 3].

    Raises:
        ImageError: As :func:`decode_image`.
    """
    return read_square(data, size, max_pixels=MAX_PIXELS)


def read_bilinear_square(data: bytes, size: int) -> Pixels:
    """A centred square as the published evaluation cuts it: uint8 [S, S, 3].

    The shorter side is resized to S (bilinear, antialiased, the longer one rounded down), then the
    centre is cropped. Only the protocol ``paper`` of evaluations reads like this.

    Raises:
        ImageError: As :func:`decode_image`.
    """
    image = read_image(data, max_pixels=MAX_PIXELS).picture
    short = min(image.size)
    width, height = (size if side == short else size * side // short for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def stored_short_side(size: int, config: DataConfig) -> int:
    """Shorter side worth keeping, in pixels: the smallest crop then still has ``size`` of them."""
    return math.ceil(size / config.min_crop_scale)


def augment(image: Pixels, size: int, config: DataConfig, generator: np.random.Generator) -> Pixels:
    """Square crop, resized to ``size`` and perhaps mirrored.

    Args:
        image: What :func:`decode_image` gave, uint8 [h, w, 3].
        size: Side S of the result in pixels.
        config: How to crop.
        generator: Random numbers for this sample alone.

    Returns:
        uint8 [3, S, S], contiguous.
    """
    if config.crop == "centre":
        return channels_first(image)
    # Always the same number of draws, so that settings change only what they name.
    scale, top, left, mirror = generator.random(4)
    height, width = image.shape[:2]
    short = min(height, width)
    side = round(short * (config.min_crop_scale + (1.0 - config.min_crop_scale) * scale))
    side = max(side, min(short, size))  # a crop is not enlarged if the image has the pixels
    y, x = int(top * (height - side + 1)), int(left * (width - side + 1))
    crop = resize_square(image[y : y + side, x : x + side], size)
    if config.colour_jitter > 0:
        crop = jitter_colours(crop, config.colour_jitter, generator)
    if config.horizontal_flip and mirror < 0.5:
        crop = crop[:, ::-1]
    return channels_first(crop)


def channels_first(square: Pixels) -> Pixels:
    """uint8 [S, S, 3] to [3, S, S], contiguous."""
    return np.ascontiguousarray(square.transpose(2, 0, 1))
