"""A distance between pictures out of a network's features, in the manner of LPIPS.

It is not LPIPS: no weights of channels are learned from people's judgements. Features of each map
are divided by their length over the channels, and their squared differences averaged over the
map's places and summed over the maps. Distances of different networks are on different scales.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_EPSILON = 1e-6


class Features(nn.Module, ABC):
    """A frozen network that gives several maps of an image."""

    @abstractmethod
    def maps(self, images: Tensor) -> Iterator[Tensor]:
        """[B, 3, H, W] in [-1, 1] to maps [B, C, h, w], from the finest to the coarsest."""


class FeatureDistance(nn.Module):
    """Mean distance of pairs.

    Args:
        features: the network; frozen here.
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """[B, 3, S, S] twice in about [-1, 1] to a scalar; gradients flow to both."""
        return self.pairs(a, b).mean()

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """[B, 3, S, S] twice in about [-1, 1] to the distance of each pair, float32 [B].

        Under autocast the network runs in its dtype; the maps are compared in float32 all the same.
        """
        distances = [
            (_unit(x) - _unit(y)).square().sum(1).mean((1, 2))
            for x, y in zip(
                self.features.maps(_channels_last(a)),
                self.features.maps(_channels_last(b)),
                strict=True,
            )
        ]
        return torch.stack(distances).sum(0)

    def train(self, mode: bool = True) -> "FeatureDistance":
        """Stays in evaluation mode: its batch norms must not see a batch."""
        del mode
        return super().train(False)


def _channels_last(images: Tensor) -> Tensor:
    # On a CPU convolutions of such maps are three times as quick, in bfloat16 with AMX ten times.
    return images.float().contiguous(memory_format=torch.channels_last)


def _unit(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + _EPSILON)
