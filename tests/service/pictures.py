"""Pictures for tests, made on the spot."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def gradient(width: int = 32, height: int = 32) -> NDArray[np.uint8]:
    """Red grows to the right, green downwards, blue is constant: [height, width, 3]."""
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([red, green, np.full_like(red, 96)], axis=-1).round().astype(np.uint8)


def as_file(picture: Image.Image | NDArray[Any], format: str = "PNG", **options: Any) -> bytes:
    """The picture in a file of a format."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def from_file(data: bytes) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
