"""LPIPS: torchmetrics' layers on torchvision's backbone, with weights from where one wants them."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowmo.training.libraries import library
from flowmo.training.perceptual.weights import RANDOM, put_weights, randomize, read_weights

Backbone = Literal["vgg", "alex"]

_WEIGHTS: dict[Backbone, str] = {"vgg": "VGG16_Weights", "alex": "AlexNet_Weights"}


class Lpips(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, version 0.1).

    Args:
        backbone: ``vgg`` or ``alex``.
        source: The source of the backbone's weights: ``library``, ``random`` or a file of
            torchvision's.

    Raises:
        LibraryError: torchmetrics, torchvision or the weights cannot be had.
        ConfigError: the file is not the backbone's.
    """

    def __init__(self, backbone: Backbone, source: str) -> None:
        super().__init__()
        weights = getattr(library("torchvision.models"), _WEIGHTS[backbone]).IMAGENET1K_V1
        # The class below torchmetrics' metric, which cannot take its backbone from a file.
        inner = library("torchmetrics.functional.image.lpips")._LPIPS
        with torch.random.fork_rng(devices=[]):
            self.network: Any = inner(pretrained=True, net=backbone, pnet_rand=True)
        if source == RANDOM:
            randomize(self.network.net)
        else:
            state = read_weights(
                source,
                lambda: weights.get_state_dict(progress=False, check_hash=True, weights_only=True),
                name=f"torchvision's {backbone}",
                url=weights.url,
            )
            # LPIPS' `slice3.10.weight` is torchvision's `features.10.weight`.
            names = {
                key: f"features.{key.partition('.')[2]}" for key in self.network.net.state_dict()
            }
            ours = {key: state[theirs] for key, theirs in names.items() if theirs in state}
            put_weights(self.network.net, ours, name=f"torchvision's {backbone}", source=source)
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of every pair of [B, 3, S, S] in [-1, 1], float32 [B]; S at least 32."""
        distance: Tensor = self.network(a, b)
        return distance.flatten()
