"""A decoder's head: convolutions that add to the pixels of its patches.

The published network has none: patches are put side by side to an image. A head mixes pixels across
the borders of patches, so that no grid shows.

Shape legend: B rows, H x W pixels, p patch size, N patches, s how often a map is smaller than the
image.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.model.patches import unpatchify

LEAST_TIME = 0.05
"""Where an image is predicted, its velocity is divided by at least this time."""


class _Residual(nn.Module):
    """x + convolution(SiLU(convolution(SiLU(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        update: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + update


class Head(nn.Module):
    """What a map adds to the pixels: residual convolutions at each scale, then twice the sides.

    The noisy image, and what the patches say by themselves, join at the last scale, which is the
    image's own.

    Args:
        channels: The number of the map's channels at each scale, the coarsest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.shrink = 2 ** (len(channels) - 1)
        self.blocks = nn.ModuleList(_Residual(width) for width in channels)
        self.grow = nn.ModuleList(
            nn.Conv2d(before, 4 * after, 1) for before, after in pairwise(channels)
        )
        last = channels[-1]
        self.pixels = nn.Conv2d(6, last, 3, padding=1)
        self.out = nn.Conv2d(last, 3, 3, padding=1)

    def forward(self, x: Tensor, said: Tensor, noisy: Tensor) -> Tensor:
        """Map [B, C, H / s, W / s] and two images [B, 3, H, W] to [B, 3, H, W]."""
        for i, block in enumerate(self.blocks):
            if i == len(self.blocks) - 1:
                x = x + self.pixels(torch.cat([said, noisy], dim=1))
            x = block(x)
            if i < len(self.grow):
                x = F.pixel_shuffle(self.grow[i](x), 2)
        out: Tensor = said + self.out(F.silu(x))
        return out


def to_pixels(patches: Tensor, noisy: Tensor, head: Head | None, patch_size: int) -> Tensor:
    """Put a decoder's patches together, and add what its head says.

    Args:
        patches: The output of the transformer, [B, N, dim]: 3p^2 numbers of pixels, then a head's.
        noisy: The input of the transformer, [B, 3, H, W], in the dtype of the head.
        head: The head, if there is one.
        patch_size: p.

    Returns:
        [B, 3, H, W]: a velocity or an image, as the model's config says.
    """
    grid = (noisy.shape[2] // patch_size, noisy.shape[3] // patch_size)
    if head is None:
        return unpatchify(patches, patch_size, grid)
    own = 3 * patch_size**2
    pixels, rest = patches.split([own, patches.shape[2] - own], dim=2)
    said = unpatchify(pixels, patch_size, grid)
    out: Tensor = head(unpatchify(rest, patch_size // head.shrink, grid), said, noisy)
    return out


def rate(t: Tensor) -> Tensor:
    """1 / t, and no more than 1 / :data:`LEAST_TIME`, of t's shape.

    An image x that is predicted at x_t means the velocity (x_t - x) times this.
    """
    return t.clamp_min(LEAST_TIME).reciprocal()


def in_two_parts(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 [...] as sums of two numbers of a narrower dtype: [..., 2], of ``values``' dtype."""
    coarse = values.to(dtype).to(values.dtype)
    return torch.stack([coarse, values - coarse], dim=-1)
