"""Sample grids: originals above, reconstructions of the averaged weights below."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowmo.training.data.images import Pixels


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]: [B, 3, H, W] twice to [B]."""
    mse = (a.float() - b.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4.0 / mse.clamp_min(1e-12))


def to_levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] rounded to 8 bits: uint8 of the same shape."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def grid(originals: Tensor, reconstructions: Tensor) -> Pixels:
    """Two rows of images [B, 3, S, S] in [-1, 1] as one picture, uint8 [2 S, B S, 3]."""
    levels = to_levels(torch.stack([originals.float().cpu(), reconstructions.float().cpu()]))
    r, b, c, h, w = levels.shape
    return levels.permute(0, 3, 1, 4, 2).reshape(r * h, b * w, c).numpy()


def save_picture(pixels: Pixels, path: Path) -> None:
    """Write uint8 [h, w, 3] as a PNG, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
