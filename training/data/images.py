"""Bytes to training crops: decode, shrink, crop, mirror. All on uint8.

Two stages, so that the first can be cached: :func:`decode_image` gives an RGB array whose shorter
side is bounded, :func:`augment` takes a square crop of it.
"""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flowmo.training.config import DataConfig
from flowmo.training.data.augmentation import jitter_colours

Pixels = NDArray[np.uint8]
MAX_PIXELS = 200_000_000
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class UnreadableImageError(ValueError):
    """Bytes that do not decode to an image."""


def decode_image(data: bytes, *, short_side: int | None) -> Pixels:
    """Decode any image file to RGB.

    EXIF orientation is applied, transparency is laid over white, 16-bit values are scaled.

    Args:
        data: the file's bytes.
        short_side: larger images are shrunk until their shorter side is this many pixels;
            None keeps the size.

    Returns:
        uint8 [h, w, 3].

    Raises:
        UnreadableImageError: corrupt, truncated, of an unknown format or too large.
    """
    # Pillow's parsers raise nearly anything on corrupt bytes (OSError, SyntaxError, ValueError,
    # struct.error, zlib.error ...); to the trainer all of them mean the same.
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(f"more than {MAX_PIXELS} pixels")
            if short_side is not None and image.format == "JPEG":
                # libjpeg can decode at 1/2, 1/4 or 1/8 size, never below what is asked for.
                shrink = max(1.0, min(image.size) / short_side)
                image.draft(None, (int(image.width / shrink), int(image.height / shrink)))
            rgb = _to_rgb(ImageOps.exif_transpose(image))
            if short_side is not None and min(rgb.size) > short_side:
                ratio = short_side / min(rgb.size)
                size = (round(rgb.width * ratio), round(rgb.height * ratio))
                rgb = rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
            return np.asarray(rgb)
    except UnreadableImageError:
        raise
    except Exception as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        wide = np.clip(np.asarray(image, dtype=np.float64) / 257.0, 0, 255)
        return Image.fromarray(wide.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def stored_short_side(size: int, config: DataConfig) -> int:
    """Shorter side worth keeping: the smallest crop then still has ``size`` pixels."""
    return math.ceil(size / (config.min_crop_scale if config.crop == "random" else 1.0))


def augment(image: Pixels, size: int, config: DataConfig, generator: np.random.Generator) -> Pixels:
    """Square crop, resized to ``size`` and perhaps mirrored.

    Args:
        image: uint8 [h, w, 3].
        size: side of the result in pixels.
        config: how to crop.
        generator: of this sample alone.

    Returns:
        uint8 [3, size, size], contiguous.
    """
    if config.crop == "centre":
        return centre_crop(image, size)
    # Always the same number of draws, so that settings change only what they name.
    scale, top, left, mirror = generator.random(4)
    height, width = image.shape[:2]
    short = min(height, width)
    side = round(short * (config.min_crop_scale + (1.0 - config.min_crop_scale) * scale))
    side = max(side, min(short, size))  # a crop is not enlarged if the image has the pixels
    y, x = int(top * (height - side + 1)), int(left * (width - side + 1))
    crop = _resized(image[y : y + side, x : x + side], size)
    if config.colour_jitter > 0:
        crop = jitter_colours(crop, config.colour_jitter, generator)
    if config.horizontal_flip and mirror < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop.transpose(2, 0, 1))


def centre_crop(image: Pixels, size: int) -> Pixels:
    """The largest centred square, resized: uint8 [h, w, 3] to [3, size, size]."""
    height, width = image.shape[:2]
    side = min(height, width)
    y, x = (height - side) // 2, (width - side) // 2
    crop = _resized(image[y : y + side, x : x + side], size)
    return np.ascontiguousarray(crop.transpose(2, 0, 1))


def _resized(square: Pixels, size: int) -> Pixels:
    if square.shape[0] == size:
        return square
    image = Image.fromarray(np.ascontiguousarray(square))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
