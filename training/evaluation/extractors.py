"""torch-fidelity's feature networks, with weights from where one wants them."""

import io
from typing import Any, cast

import torch
from torch import Tensor, nn

from flowmo.training.libraries import library
from flowmo.training.perceptual.weights import RANDOM, Weights, put_weights, randomize, read_weights

INCEPTION, VGG16 = "inception-v3-compat", "vgg16"
_LAYERS = {INCEPTION: "2048", VGG16: "fc2_relu"}


class Extractor(nn.Module):
    """Features of 8-bit pictures.

    Args:
        network: ``inception-v3-compat`` or ``vgg16``, torch-fidelity's names.
        source: The source of the weights: ``library``, ``random`` or a file.

    Raises:
        LibraryError: torch-fidelity, torchvision or the weights cannot be had.
        ConfigError: the file is not the network's.
    """

    def __init__(self, network: str, source: str) -> None:
        super().__init__()
        library(
            "torchvision"
        )  # which torch-fidelity imports, so that its failure is reported as such
        self.network: Any = (_inception if network == INCEPTION else _vgg16)(source)
        self.requires_grad_(False).eval()

    @torch.inference_mode()
    def forward(self, levels: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] to float32 [B, 2048] or [B, 4096]; resized as torch-fidelity does."""
        (features,) = self.network(levels)
        return cast("Tensor", features)


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

    network: nn.Module = _Inception(
        INCEPTION, [_LAYERS[INCEPTION]], feature_extractor_weights_path=empty
    )
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
    base.__init__(network, VGG16, [_LAYERS[VGG16]])
    network.feature_extractor_internal_dtype = torch.float32
    network.model = vgg
    return cast("nn.Module", network)
