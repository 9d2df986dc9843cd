"""Frozen networks as losses: LPIPS-VGG of stage 1A, ResNet-50 logits of stage 1B.

Architectures and weights are torchvision's, LPIPS' own layers torchmetrics' (docs/decisions/0021).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.model.errors import ConfigError
from flowmo.training.config import PerceptualConfig
from flowmo.training.libraries import library
from flowmo.training.perceptual.efficientnet_lite import EfficientNetLite0
from flowmo.training.perceptual.feature_distance import FeatureDistance
from flowmo.training.perceptual.lpips import Lpips
from flowmo.training.perceptual.vgg_edge import VggEdge
from flowmo.training.perceptual.weights import (
    LIBRARY,
    RANDOM,
    put_weights,
    randomize,
    read_weights,
)

# The mean and standard deviation of ImageNet's pixels, for images in [-1, 1].
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_RESNET_SIDE = 224


class LpipsLoss(nn.Module):
    """Mean LPIPS-VGG of pairs.

    Args:
        source: The source of the backbone's weights
            (:mod:`flowmo.training.perceptual.weights`).

    Raises:
        LibraryError: torchmetrics, torchvision or the weights cannot be had.
        ConfigError: the file is not the backbone's.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.network = Lpips("vgg", source)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """[B, 3, S, S] twice in about [-1, 1] to a scalar; S at least 32."""
        mean: Tensor = self.network(a, b).mean()
        return mean


class ResNetLogits(nn.Module):
    """Mean squared difference of ResNet-50's logits at 224 x 224 (stage 1B, after MaskBit).

    Args:
        source: The source of the weights (:mod:`flowmo.training.perceptual.weights`);
            torchvision's are IMAGENET1K_V1.

    Raises:
        LibraryError: torchvision or the weights cannot be had.
        ConfigError: the file is of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, source: str) -> None:
        super().__init__()
        models = library("torchvision.models")
        with torch.random.fork_rng(devices=[]):
            self.network: nn.Module = models.resnet50(weights=None)
        if source == RANDOM:
            randomize(self.network)
        else:
            weights = models.ResNet50_Weights.IMAGENET1K_V1
            state = read_weights(
                source,
                lambda: weights.get_state_dict(progress=False, check_hash=True, weights_only=True),
                name="torchvision's ResNet-50",
                url=weights.url,
            )
            put_weights(self.network, state, name="torchvision's ResNet-50", source=source)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """[B, 3, S, S] twice in about [-1, 1] to a scalar."""
        return (self._logits(a) - self._logits(b)).square().mean()

    def _logits(self, images: Tensor) -> Tensor:
        side = (_RESNET_SIDE, _RESNET_SIDE)
        resized = F.interpolate(
            images.float(), side, mode="bilinear", align_corners=False, antialias=True
        )
        logits: Tensor = self.network((resized - self.mean) / self.std)
        return logits.float()

    def train(self, mode: bool = True) -> "ResNetLogits":
        """Stays in evaluation mode: its batch norms must not see a batch."""
        del mode
        return super().train(False)


def perceptual_network(config: PerceptualConfig, device: torch.device) -> nn.Module | None:
    """The network that a config names, frozen; None for ``none``.

    Raises:
        LibraryError: torchvision or the weights cannot be had.
        ConfigError: a file is not of the network.
    """
    if config.network == "none":
        return None
    if config.network == "vgg-edge" or config.network == "efficientnet-lite0":
        distance = feature_distance(config.network, config.weights, blocks=config.blocks)
        return distance.to(device)
    kind = LpipsLoss if config.network == "lpips-vgg" else ResNetLogits
    return kind(config.weights).to(device)


def feature_distance(
    network: Literal["vgg-edge", "efficientnet-lite0"],
    source: str,
    *,
    blocks: int = 5,
    option: str = "perceptual.weights",
) -> FeatureDistance:
    """The distance that a fetched network gives.

    Args:
        network: The network's name.
        source: The file that :mod:`flowmo.training.perceptual.fetch` wrote, or ``random``.
        blocks: How many of the first blocks of ``vgg-edge`` are used.
        option: What sets the source, for errors.

    Raises:
        ConfigError: the file cannot be read or is of another network, or is not named.
    """
    with torch.random.fork_rng(devices=[]):
        features = VggEdge(blocks) if network == "vgg-edge" else EfficientNetLite0()
    if source == RANDOM:
        randomize(features)
    else:
        if source == LIBRARY:
            raise ConfigError(
                f"no library fetches the weights of {network}: write them with `python -m "
                f"flowmo.training.perceptual.fetch --out networks` and set {option} to "
                f"networks/{network}.safetensors"
            )
        state = read_weights(source, dict, name=network, url=source)
        put_weights(features, state, name=network, source=source)
    return FeatureDistance(features)
