"""Sample grids: originals above, reconstructions of the averaged weights below."""

from pathlib import Path

import torch
from torch import Tensor

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_levels
from flowmo.imaging.writing import encode_image
from flowmo.model.files import replacing_file


def grid(originals: Tensor, reconstructions: Tensor) -> Pixels:
    """Two rows of images [B, 3, S, S] in [-1, 1] as one picture, uint8 [2 S, B S, 3]."""
    levels = to_levels(torch.stack([originals.float().cpu(), reconstructions.float().cpu()]))
    r, b, c, h, w = levels.shape
    return levels.permute(0, 3, 1, 4, 2).reshape(r * h, b * w, c).contiguous().numpy()


def save_picture(pixels: Pixels, path: Path) -> None:
    """Write uint8 [h, w, 3] as a PNG, whole or not at all; its folder is made."""
    with replacing_file(path) as partial:
        partial.write_bytes(encode_image(pixels, "png"))
