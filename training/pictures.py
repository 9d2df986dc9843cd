"""Pictures to measure on, cut and resized the same way everywhere."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.held_out import centred_square, held_out_photographs
from training.images import decode_image
from training.index import ImageIndex


def held_out_pictures(paths: Sequence[str], size: int, *, limit: int) -> list[NDArray[np.uint8]]:
    """Centred squares resized (Lanczos): uint8 [size, size, 3].

    Args:
        paths: folders, images, tars or patterns; none means the held-out photographs.
        size: of the model.
        limit: the most; taken evenly spaced, so that a sorted folder is not cut at one end.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    if not paths:
        return [centred_square(image, size) for image in held_out_photographs().values()]
    index = ImageIndex(paths)
    chosen = np.linspace(0, len(index) - 1, min(limit, len(index))).round().astype(int)
    found = []
    for number in dict.fromkeys(chosen.tolist()):
        pixels = decode_image(index.read(number), short_side=None)
        found.append(centred_square(Image.fromarray(pixels), size))
    index.close()
    return found
