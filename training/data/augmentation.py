"""What is done to crops beside cutting: colour jitter, and how often a picture is seen."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
MOST_REPEATS = 64


def jitter_colours(crop: Pixels, strength: float, generator: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and the balance of the channels, each changed at random.

    Args:
        crop: uint8 [h, w, 3].
        strength: the largest relative change of contrast and saturation; brightness moves by at
            most half of it (of the whole range), each channel by at most a quarter of it.
        generator: Random numbers for this sample alone.

    Returns:
        uint8 of the same shape; values past the range are clipped.
    """
    brightness, contrast, saturation = strength * generator.uniform(-1.0, 1.0, 3)
    balance = 1.0 + strength / 4 * generator.uniform(-1.0, 1.0, 3)
    levels: NDArray[np.floating[Any]] = crop.astype(np.float32)
    grey = (levels @ _LUMA)[..., None]
    levels = grey + (levels - grey) * np.float32(1.0 + saturation)
    mean = levels.mean()
    levels = mean + (levels - mean) * np.float32(1.0 + contrast)
    levels = levels * balance.astype(np.float32) + np.float32(127.5 * brightness)
    pixels: Pixels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return pixels


def repeats(height: int, width: int, size: int) -> int:
    """How often a picture is seen in an epoch if large ones count for more.

    It is as many crops of ``size`` pixels as cover it, rounded, at least one and at most
    :data:`MOST_REPEATS`.

    Args:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        size: Side of the crops in pixels.
    """
    return max(1, min(MOST_REPEATS, round(height * width / size**2)))
