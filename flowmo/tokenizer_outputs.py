"""In which form a tokenizer hands over what it decoded."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images, to_picture
from flowmo.tokenizer_options import Output


def in_form(
    results: Iterable[Tensor | Pixels],
    output: Output,
    *,
    is_single: bool,
    side: int,
    device: torch.device,
) -> Any:
    """Pictures in the form that was asked for.

    Args:
        results: float [3, H, W] in [-1, 1], or uint8 [H, W, 3] where something was resized; taken
            one after the other.
        output: ``pil``, ``array`` or ``tensor``.
        is_single: Whether one comes alone.
        side: Of what an empty batch has none of, in pixels.
        device: Of tensors.

    Returns:
        One picture or several; arrays and tensors of one size are one of all.
    """
    if output == "tensor":
        tensors = [_as_tensor(one, device) for one in results]
        if is_single:
            return tensors[0]
        if not tensors:
            return torch.empty(0, 3, side, side)
        return torch.stack(tensors) if len({one.shape for one in tensors}) == 1 else tensors
    pixels = [_as_pixels(one) for one in results]
    if output == "pil":
        images = [Image.fromarray(one) for one in pixels]
        return images[0] if is_single else images
    if is_single:
        return pixels[0]
    if not pixels:
        return np.empty((0, side, side, 3), np.uint8)
    return np.stack(pixels) if len({one.shape for one in pixels}) == 1 else pixels


def _as_tensor(made: Tensor | Pixels, device: torch.device) -> Tensor:
    return made if isinstance(made, Tensor) else to_images(made[None], device)[0]


def _as_pixels(made: Tensor | Pixels) -> Pixels:
    return to_picture(made) if isinstance(made, Tensor) else made
