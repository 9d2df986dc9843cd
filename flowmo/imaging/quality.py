"""How close a picture came, and what an ordinary codec makes of the same number of bytes."""

import math

import numpy as np

from flowmo.imaging.reading import Pixels
from flowmo.imaging.writing import encode_image

IDENTICAL_PSNR = 120.0
"""dB that means over several pictures count for one that came back unchanged.

It is above what one differing value can give, and unlike infinity it leaves the others visible.
"""


def psnr(reference: Pixels, picture: Pixels, *, identical: float = math.inf) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures of one shape, in dB.

    Args:
        reference: uint8 of any shape.
        picture: uint8 of the same shape.
        identical: What equal pictures have, which have no noise; :data:`IDENTICAL_PSNR` for
            figures that are averaged.
    """
    assert reference.dtype == picture.dtype == np.uint8, (reference.dtype, picture.dtype)
    assert reference.shape == picture.shape, (reference.shape, picture.shape)
    difference = reference.astype(np.float64) - picture.astype(np.float64)
    error = float(np.mean(difference**2))
    return identical if error == 0.0 else 10.0 * math.log10(255.0**2 / error)


def nearest_webp(pixels: Pixels, size: int) -> bytes:
    """The WebP file of full resolution whose length is nearest to ``size`` bytes.

    (A JPEG has about 600 bytes of tables before the first pixel, more than many token sets.)
    """
    # The slowest method is the best at so few bytes.
    files = (encode_image(pixels, "webp", quality=q, best=True) for q in range(0, 101, 2))
    return min(files, key=lambda data: abs(len(data) - size))
