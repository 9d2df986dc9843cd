"""Convolutions around the transformers: an encoder's stem and a decoder's head.

The published network has neither: patches are cut out of the image, and put side by side to one.
A head mixes pixels across the borders of patches, so that no grid shows; a stem lets neighbouring
patches see the same pixels.

Shape legend: B rows, H x W pixels, p patch size, N patches, s how often a map is smaller than the
image.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.model.config import FlowMoConfig
from flowmo.model.patches import patchify, unpatchify

LEAST_TIME = 0.05
"""Where an image is predicted, its velocity is divided by at least this time."""


class Stem(nn.Module):
    """Convolutions that halve an image's sides, each followed by SiLU.

    Args:
        channels: of each map; the last one is cut into patches.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.shrink = 2 ** len(channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1)
            for before, after in zip((3, *channels), channels, strict=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, C, H / s, W / s]."""
        for layer in self.layers:
            images = F.silu(layer(images))
        return images


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
        channels: of the map at each scale, the coarsest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = channels[0]
        self.shrink = 2 ** (len(channels) - 1)
        self.blocks = nn.ModuleList(_Residual(width) for width in channels)
        self.grow = nn.ModuleList(
            nn.Conv2d(before, 4 * after, 1)
            for before, after in zip(channels, channels[1:], strict=False)
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


def build_stem(config: FlowMoConfig) -> Stem | None:
    """The stem of a config; None for the published form."""
    return Stem(config.stem) if config.stem else None


def build_head(config: FlowMoConfig) -> Head | None:
    """The head of a config; None for the published form."""
    return Head(config.head) if config.head else None


def encoder_patches(images: Tensor, stem: nn.Module | None, patch_size: int) -> Tensor:
    """What an encoder sees: patches of the image, or of its stem's map.

    Args:
        images: [B, 3, H, W].
        stem: of :func:`build_stem`.
        patch_size: p.

    Returns:
        [B, N, dim], row-major.
    """
    if stem is None:
        return patchify(images, patch_size)
    return patchify(stem(images), patch_size // cast("int", stem.shrink))


def prediction(
    patches: Tensor, noisy: Tensor, head: nn.Module | None, patch_size: int
) -> Tensor:
    """What a decoder's output says, velocity or image.

    Args:
        patches: output of the transformer, [B, N, dim].
        noisy: its input, [B, 3, H, W], in the dtype of the head.
        head: of :func:`build_head`.
        patch_size: p.

    Returns:
        [B, 3, H, W].
    """
    grid = (noisy.shape[2] // patch_size, noisy.shape[3] // patch_size)
    if head is None:
        return unpatchify(patches, patch_size, grid)
    pixels, rest = patches.split([3 * patch_size**2, patches.shape[2] - 3 * patch_size**2], dim=2)
    said = unpatchify(pixels, patch_size, grid)
    out: Tensor = head(unpatchify(rest, patch_size // cast("int", head.shrink), grid), said, noisy)
    return out


def per_time(t: Tensor) -> Tensor:
    """1 / t, and no more than 1 / :data:`LEAST_TIME`; of t's shape."""
    return t.clamp_min(LEAST_TIME).reciprocal()


def in_two_parts(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 [...] as a sum of two numbers of a narrower dtype, [..., 2]; of ``values``' dtype."""
    coarse = values.to(dtype).to(values.dtype)
    return torch.stack([coarse, values - coarse], dim=-1)
