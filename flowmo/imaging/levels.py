"""8-bit levels and the model's range [-1, 1], as arrays; :mod:`flowmo.imaging.tensors` has tensors.

A level v stands for v / 127.5 - 1: black is -1, white 1, and there is no level at 0.
"""

import numpy as np
from numpy.typing import NDArray

from flowmo.imaging.reading import Pixels


def to_model_range(levels: Pixels) -> NDArray[np.float32]:
    """uint8 of any shape to float32 in [-1, 1], in the same order of dimensions."""
    assert levels.dtype == np.uint8, levels.dtype
    return levels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def to_levels(values: NDArray[np.floating]) -> Pixels:
    """Values in [-1, 1], clipped and rounded, to uint8 of the same shape."""
    levels = (values.astype(np.float32) + np.float32(1.0)) * np.float32(127.5)
    return levels.round().clip(0, 255).astype(np.uint8)
