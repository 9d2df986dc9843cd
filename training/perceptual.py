"""Frozen networks as losses: LPIPS-VGG of stage 1A, ResNet-50 logits of stage 1B.

Architectures and weights are torchvision's, LPIPS' own layers torchmetrics' (docs/decisions/0075).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast
from urllib.error import URLError

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import ConfigError
from training.config import PerceptualConfig
from training.libraries import library

_RANDOM_SEED = 0
# The mean and standard deviation of ImageNet's pixels, for images in [-1, 1].
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_RESNET_SIDE = 224


class LPIPS(nn.Module):
    """LPIPS with the VGG-16 backbone (Zhang et al. 2018), version 0.1.

    Args:
        weights: of the backbone, as :class:`training.config.PerceptualConfig` says.

    Raises:
        ConfigError: the weights or torchvision cannot be had.
    """

    def __init__(self, weights: str = "torchvision") -> None:
        super().__init__()
        # The class below torchmetrics' metric: the metric itself gives no gradients and cannot
        # take weights from a file.
        kind = library("torchmetrics.functional.image.lpips")._LPIPS
        with _fixed_seed():
            self.network = kind(pretrained=True, net="vgg", pnet_rand=True)
        if weights != "random":
            state = _weights(weights, "VGG16_Weights", "VGG-16")
            names = {name: _vgg_name(name) for name, _ in self.network.net.named_parameters()}
            _load(self.network.net, {name: state.get(old) for name, old in names.items()}, weights)
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean distance of [B, 3, S, S] twice in about [-1, 1]; S at least 16."""
        return self.each(a, b).mean()

    def each(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of every pair, [B]."""
        distance: Tensor = self.network(a, b)
        return distance.flatten()


class ResNetLogits(nn.Module):
    """Mean squared difference of ResNet-50's logits at 224 x 224 (stage 1B, after MaskBit).

    Args:
        weights: as :class:`training.config.PerceptualConfig` says; torchvision's are
            IMAGENET1K_V1.

    Raises:
        ConfigError: the weights or torchvision cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str = "torchvision") -> None:
        super().__init__()
        with _fixed_seed():
            self.network = library("torchvision.models").resnet50(weights=None)
        if weights != "random":
            state = _weights(weights, "ResNet50_Weights", "ResNet-50")
            # Old files lack the batch counters of batch norm, which evaluation does not use.
            names = [n for n in self.network.state_dict() if not n.endswith("num_batches_tracked")]
            _load(self.network, {name: state.get(name) for name in names}, weights)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean over images and logits of [B, 3, S, S] twice in about [-1, 1]."""
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
        ConfigError: its weights or torchvision cannot be had.
    """
    if config.network == "none":
        return None
    kind = LPIPS if config.network == "lpips-vgg" else ResNetLogits
    return kind(config.weights).to(device)


class _fixed_seed:  # noqa: N801 (a context manager)
    """Random initial weights that neither depend on nor change the global generator."""

    def __enter__(self) -> None:
        self._state = torch.get_rng_state()
        torch.manual_seed(_RANDOM_SEED)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._state)


def _weights(source: str, enum: str, name: str) -> Mapping[str, Tensor]:
    """State dict of a file, or of torchvision's own loader."""
    if source == "torchvision":
        weights = getattr(library("torchvision.models"), enum).IMAGENET1K_V1
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except (OSError, URLError, RuntimeError) as error:
            raise ConfigError(
                f"torchvision cannot fetch the weights of {name} ({error}); download "
                f"{weights.url} elsewhere and set perceptual.weights to the file"
            ) from error
        return cast("Mapping[str, Tensor]", state)
    path = Path(source).expanduser()
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return cast("Mapping[str, Tensor]", torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise ConfigError(
            f"perceptual.weights = {source!r} cannot be read as weights of {name}: {error}"
        ) from error


def _vgg_name(name: str) -> str:
    """``slice3.10.weight`` of LPIPS is ``features.10.weight`` of torchvision's VGG-16."""
    return "features." + name.partition(".")[2]


def _load(network: nn.Module, state: dict[str, Tensor | None], source: str) -> None:
    absent = [name for name, tensor in state.items() if tensor is None]
    if absent:
        raise ConfigError(
            f"the weights of {source!r} are of another network: {len(absent)} of its "
            f"{len(state)} tensors are missing, such as {absent[0]}"
        )
    try:
        network.load_state_dict(cast("dict[str, Tensor]", state), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"the weights of {source!r} are of another network: {error}") from error
