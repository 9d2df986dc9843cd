"""What a tensor of images must be before a network sees it.

A network answers any numbers with some tokens: a picture in [0, 255], in [0, 1] or of another size
than the model's gives a decode of 9 to 11 dB and no error. So images are checked where they enter.
"""

import torch
from torch import Tensor

from flowmo.model.errors import ConfigError

# One of 255 levels: what rounding leaves of a picture that was resized or cast, and not visible.
RANGE_TOLERANCE = 2 / 255


def check_images(images: Tensor, size: tuple[int, int]) -> None:
    """Check that images are what a model reads.

    Args:
        images: What should be float [B, 3, H, W] in [-1, 1], on any device.
        size: H and W in pixels.

    Raises:
        ConfigError: The shape, the dtype or a value is wrong; the message says how to mend it.
    """
    shape = f"[B, 3, {size[0]}, {size[1]}]"
    if not isinstance(images, Tensor):
        raise ConfigError(
            f"images must be a float tensor {shape} in [-1, 1], got "
            f"{type(images).__name__}; flowmo.load(...).encode takes pictures, files and arrays"
        )
    if images.ndim != 4 or images.shape[1] != 3:
        raise ConfigError(
            f"images must have the shape {shape}, got {list(images.shape)}; add the batch by "
            f"images[None], and move channels to the front by permute"
        )
    if not images.is_floating_point():
        raise ConfigError(
            f"images must be floating-point in [-1, 1], got {images.dtype}; 8-bit levels become "
            f"that by images / 127.5 - 1"
        )
    if tuple(images.shape[2:]) != size:
        raise ConfigError(
            f"this model reads {size[0]} x {size[1]} pixels, got {images.shape[2]} x "
            f"{images.shape[3]}; resize the images first, or give flowmo.load(...).encode the "
            f"pictures themselves, which it fits"
        )
    if images.numel() == 0:
        return
    low, high = (float(value) for value in torch.stack(images.detach().aminmax()).tolist())
    if low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE:
        return
    if low != low or high != high or low == -float("inf") or high == float("inf"):
        count = int((~images.isfinite()).sum())
        raise ConfigError(
            f"images hold {count} numbers that are infinite or undefined (NaN); look for a "
            f"division by zero or an overflow where they are made"
        )
    hint = (
        "levels from 0 to 255 become that by images / 127.5 - 1"
        if low >= 0 and high > 2
        else "rescale them, or clip what a filter overshot by images.clamp(-1, 1)"
    )
    raise ConfigError(f"images must lie in [-1, 1], got {low:.4g} to {high:.4g}; {hint}")
