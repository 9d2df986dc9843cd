"""Pixels to image files: PNG, JPEG or WebP bytes, without any metadata."""

import io
from typing import Literal

from PIL import Image

from flowmo.imaging.reading import Pixels

ImageFormat = Literal["png", "jpeg", "webp"]
OUTPUT_MEDIA_TYPES: dict[str, ImageFormat] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
}
DEFAULT_QUALITY = 90


def encode_image(pixels: Pixels, format: ImageFormat, *, quality: int = DEFAULT_QUALITY) -> bytes:
    """Encode a picture.

    Args:
        pixels: uint8 [H, W, 3].
        format: ``png`` (lossless), ``jpeg`` or ``webp`` (both lossy).
        quality: 1 to 100, for the lossy formats.
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    if format == "png":
        # Level 4 is a third of the default's time for a file a few per cent larger.
        picture.save(buffer, "PNG", compress_level=4)
    else:
        picture.save(buffer, format.upper(), quality=quality)
    return buffer.getvalue()
