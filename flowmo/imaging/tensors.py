"""8-bit pictures and the model's tensors in [-1, 1].

The only module of the package that imports torch, and none of the others imports it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowmo.imaging.quality import IDENTICAL_PSNR, psnr
from flowmo.imaging.reading import Pixels

_ROWS_AT_ONCE = 256


def to_model_range(levels: Tensor) -> Tensor:
    """uint8 of any shape to float32 in [-1, 1]: v / 127.5 - 1."""
    assert levels.dtype == torch.uint8, levels.dtype
    return levels.float().div_(127.5).sub_(1.0)


def to_levels(images: Tensor) -> Tensor:
    """Values in [-1, 1], clipped and rounded, to uint8 of the same shape."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def as_levels(pictures: Pixels | Sequence[Pixels]) -> Tensor:
    """Pictures uint8 [S, S, 3] to one tensor uint8 [B, 3, S, S], contiguous, on the CPU."""
    # A copy, because Pillow's buffers are read-only and torch has no such tensors.
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).contiguous()


def to_images(
    pictures: Pixels | Sequence[Pixels], device: torch.device | str | None = None
) -> Tensor:
    """Pictures uint8 [S, S, 3] to one tensor float32 [B, 3, S, S] in [-1, 1].

    Args:
        pictures: An array [B, S, S, 3], or a sequence of B pictures of one size.
        device: Where the tensor lies; the CPU by default. Pictures go there as bytes.
    """
    return to_model_range(as_levels(pictures).to(device))


def to_pixels(images: Tensor) -> Pixels:
    """Values [B, 3, S, S] in [-1, 1], clipped and rounded, to pictures uint8 [B, S, S, 3]."""
    pixels: Pixels = to_levels(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def to_picture(image: Tensor) -> Pixels:
    """Values [3, H, W] in [-1, 1], clipped and rounded, to a picture uint8 [H, W, 3].

    Some rows at a time: of a large picture the steps between take several times its room.
    """
    _, height, width = image.shape
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _ROWS_AT_ONCE):
        pixels[top : top + _ROWS_AT_ONCE] = to_pixels(image[None, :, top : top + _ROWS_AT_ONCE])[0]
    return pixels


def psnr_of_images(references: Tensor, images: Tensor) -> list[float]:
    """PSNR in dB of each pair, after both are rounded to 8 bits as files would be.

    Args:
        references: [B, 3, S, S] in [-1, 1].
        images: The same shape and range.

    Returns:
        B values; an identical pair has :data:`flowmo.imaging.quality.IDENTICAL_PSNR`.
    """
    pairs = zip(to_pixels(references), to_pixels(images), strict=True)
    return [psnr(a, b, identical=IDENTICAL_PSNR) for a, b in pairs]
