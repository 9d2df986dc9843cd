"""torch-fidelity's feature networks, with weights from where one wants them."""

import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.training.evaluation.protocol import INCEPTION, PYTORCH_FID, VGG16
from flowmo.training.libraries import library
from flowmo.training.perceptual.weights import RANDOM, Weights, put_weights, randomize, read_weights

__all__ = [
    "INCEPTION",
    "LOGITS",
    "PYTORCH_FID",
    "SPATIAL",
    "VGG16",
    "Inception",
    "Vgg16",
    "pytorch_fid_input",
]

SPATIAL, LOGITS = "inception-v3-spatial", "inception-v3-logits"
"""Features of ADM's evaluator beside the 2,048: 17 x 17 x 7 for sFID, 1,008 classes for IS."""

_SIDE = 299
# Modules of torch-fidelity's network in their order. ADM's spatial features are the first branch of
# the block that TensorFlow's graph calls mixed_6.
_BEFORE_SPATIAL = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c"),
)
_AFTER_SPATIAL = ["Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"]
_SPATIAL_CHANNELS = 7


class Inception(nn.Module):
    """InceptionV3 with TensorFlow's weights of 2015, which FID and its relatives rest on.

    Args:
        source: The source of the weights: ``library``, ``random`` or a file.

    Raises:
        LibraryError: torch-fidelity, torchvision or the weights cannot be had.
        ConfigError: The file is not the network's.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        library(
            "torchvision"
        )  # which torch-fidelity imports, so that its failure is reported as such
        self.network: Any = _inception(source)
        self._tensorflow: Callable[..., Tensor] = library(
            "torch_fidelity.interpolate_compat_tensorflow"
        ).interpolate_bilinear_2d_like_tensorflow1x
        self.requires_grad_(False).eval()

    @torch.inference_mode()
    def forward(self, levels: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Features by name, float32 [B, F].

        Args:
            levels: uint8 [B, 3, S, S].
            names: Which: :data:`INCEPTION` (2048), :data:`PYTORCH_FID` (2048), :data:`SPATIAL`
                (2023, in TensorFlow's order row, column, channel) or :data:`LOGITS` (1008, without
                bias).
        """
        wanted = set(names)
        found: dict[str, Tensor] = {}
        if PYTORCH_FID in wanted:
            found[PYTORCH_FID] = self._run(pytorch_fid_input(levels))[0]
        if wanted - {PYTORCH_FID}:
            resized = self._tensorflow(levels.float(), size=(_SIDE, _SIDE), align_corners=False)
            pooled, spatial = self._run((resized - 128) / 128)
            found[INCEPTION], found[SPATIAL] = pooled, spatial
            found[LOGITS] = pooled @ self.network.fc.weight.T
        return {name: found[name] for name in found if name in wanted}

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self._through(_BEFORE_SPATIAL, images)
        spatial = self.network.Mixed_6d.branch1x1(x)[:, :_SPATIAL_CHANNELS]
        pooled = self._through(_AFTER_SPATIAL, x)
        return pooled.flatten(1), spatial.permute(0, 2, 3, 1).flatten(1)

    def _through(self, names: Iterable[str], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self.network, name)(x)
        return x


def pytorch_fid_input(levels: Tensor) -> Tensor:
    """What pytorch-fid shows to InceptionV3: uint8 [B, 3, S, S] to [B, 3, 299, 299] in [-1, 1]."""
    resized = F.interpolate(
        levels.float() / 255, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False
    )
    return 2 * resized - 1


class Vgg16(nn.Module):
    """torchvision's VGG-16 up to its second hidden layer.

    Args:
        source: The source of the weights: ``library``, ``random`` or a file.

    Raises:
        LibraryError: torch-fidelity, torchvision or the weights cannot be had.
        ConfigError: The file is not the network's.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        library("torchvision")
        self.network: Any = _vgg16(source)
        self.requires_grad_(False).eval()

    @torch.inference_mode()
    def forward(self, levels: Tensor, names: Iterable[str] = (VGG16,)) -> Mapping[str, Tensor]:
        """uint8 [B, 3, S, S] to float32 [B, 4096], resized as torch-fidelity does."""
        (features,) = self.network(levels)
        return dict.fromkeys(names, features)


def _inception(source: str) -> nn.Module:
    module = library("torch_fidelity.feature_extractor_inceptionv3")
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)

    class _Inception(module.FeatureExtractorInceptionV3):  # type: ignore[misc, name-defined]
        # The constructor fetches weights or unpickles a file without a check; given an empty one
        # it does neither.
        def load_state_dict(self, state: Weights, strict: bool = True, assign: bool = False) -> Any:
            return super().load_state_dict(state, strict=strict and bool(state), assign=assign)

    network: nn.Module = _Inception(INCEPTION, ["2048"], feature_extractor_weights_path=empty)
    if source == RANDOM:
        randomize(network)
        return network
    url = module.URL_INCEPTION_V3

    def fetch() -> Weights:
        found: Weights = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
        return found

    state = read_weights(source, fetch, name="torch-fidelity's InceptionV3", url=url)
    put_weights(network, state, name="torch-fidelity's InceptionV3", source=source)
    return network


def _vgg16(source: str) -> nn.Module:
    models = library("torchvision.models")
    module = library("torch_fidelity.feature_extractor_vgg16")
    weights = models.VGG16_Weights.IMAGENET1K_V1
    with torch.device("meta"):
        vgg: nn.Module = models.vgg16(init_weights=False)
    vgg.to_empty(device="cpu")
    if source == RANDOM:
        randomize(vgg)
    else:
        state = read_weights(
            source,
            lambda: weights.get_state_dict(progress=False, check_hash=True, weights_only=True),
            name="torchvision's VGG-16",
            url=weights.url,
        )
        put_weights(vgg, state, name="torchvision's VGG-16", source=source)
    # Up to the second hidden layer, as torch-fidelity's own constructor cuts it.
    vgg.classifier = cast("nn.Sequential", vgg.classifier)[:4]
    base = library("torch_fidelity.feature_extractor_base").FeatureExtractorBase
    network: Any = module.FeatureExtractorVGG16.__new__(module.FeatureExtractorVGG16)
    base.__init__(network, VGG16, ["fc2_relu"])
    network.feature_extractor_internal_dtype = torch.float32
    network.model = vgg
    return cast("nn.Module", network)
