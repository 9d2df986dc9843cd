"""Networks that judge pairs of images, by name."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from flowmo.training.perceptual.exact import exact_float32
from flowmo.training.perceptual.losses import feature_distance
from flowmo.training.perceptual.lpips import Lpips

PairMetric = Literal["lpips", "vgg-edge", "efficientnet-lite0"]

PAIR_METRICS: tuple[PairMetric, ...] = ("lpips", "vgg-edge", "efficientnet-lite0")
"""LPIPS-VGG, and distances of the features of networks that packages of the index carry."""

PairDistance = Callable[[Tensor, Tensor], Tensor]


def pair_distance(
    name: PairMetric, source: str, device: torch.device | str, *, option: str
) -> PairDistance:
    """A function that gives the distance of every pair, [B, 3, S, S] in [-1, 1] twice to [B].

    It computes in float32, whatever the caller computes in.

    Args:
        name: Which network.
        source: The source of its weights (:mod:`flowmo.training.perceptual.weights`).
        device: Where to compute.
        option: What sets the source, for errors.

    Raises:
        LibraryError: A library or the weights cannot be had.
        ConfigError: The file is of another network, or is not named.
    """
    if name == "lpips":
        judge: PairDistance = Lpips("vgg", source).to(device)
    else:
        judge = feature_distance(name, source, option=option).to(device).pairs

    def distance(a: Tensor, b: Tensor) -> Tensor:
        with exact_float32(device):
            return judge(a, b)

    return distance
