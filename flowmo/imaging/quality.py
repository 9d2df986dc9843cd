"""How close a picture came, and what an ordinary codec makes of the same number of bytes."""

import io
import math

import numpy as np
from PIL import Image

from flowmo.imaging.reading import Pixels


def psnr(reference: Pixels, picture: Pixels) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures in dB; infinite for equal ones."""
    difference = reference.astype(np.float64) - picture.astype(np.float64)
    error = float(np.mean(difference**2))
    return math.inf if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def nearest_webp(pixels: Pixels, size: int) -> bytes:
    """The WebP file of full resolution whose length is nearest to ``size`` bytes.

    (A JPEG has about 600 bytes of tables before the first pixel, more than many token sets.)
    """
    files = []
    for quality in range(0, 101, 2):
        buffer = io.BytesIO()
        # The slowest method is the best at so few bytes.
        Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=6)
        files.append(buffer.getvalue())
    return min(files, key=lambda data: abs(len(data) - size))
