"""How close a picture came, and what an ordinary codec makes of the same number of bytes."""

import math

import numpy as np

from service.images import Pixels
from service.render import encode_image


def psnr(reference: Pixels, picture: Pixels) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures in dB; infinite for equal ones."""
    difference = reference.astype(np.float64) - picture.astype(np.float64)
    error = float(np.mean(difference**2))
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def nearest_webp(pixels: Pixels, size: int) -> bytes:
    """The WebP file whose length is nearest to ``size`` bytes.

    (A JPEG has about 600 bytes of tables before the first pixel, more than many token sets.)
    """
    files = [encode_image(pixels, "webp", quality=quality) for quality in range(1, 101, 3)]
    return min(files, key=lambda data: abs(len(data) - size))
