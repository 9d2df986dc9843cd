"""The networks and libraries that figures need, each had or missed by itself."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowmo.imaging.tensors import to_model_range
from flowmo.training.errors import LibraryError
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.extractors import INCEPTION, VGG16, Extractor
from flowmo.training.perceptual.lpips import Backbone, Lpips
from flowmo.training.perceptual.ssim import Ssim
from flowmo.training.perceptual.weights import LIBRARY, NONE, RANDOM, digest


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSources:
    """Where weights come from: ``library``, ``random``, ``none`` or a file, each.

    Attributes:
        lpips: The source of LPIPS' backbone, torchvision's VGG-16 or AlexNet.
        lpips_backbone: which of the two.
        inception: torch-fidelity's InceptionV3, for rFID.
        vgg16: torchvision's VGG-16, for precision and recall.

    Raises:
        EvaluationError: no such backbone.
    """

    lpips: str = LIBRARY
    lpips_backbone: Backbone = "vgg"
    inception: str = LIBRARY
    vgg16: str = LIBRARY

    def __post_init__(self) -> None:
        if self.lpips_backbone not in ("vgg", "alex"):
            raise EvaluationError(f"LPIPS' backbone is vgg or alex, got {self.lpips_backbone!r}")


NO_NETWORKS = NetworkSources(lpips=NONE, inception=NONE, vgg16=NONE)


class Networks:
    """Networks on a device. One whose weights cannot be had is absent, with the reason.

    Args:
        sources: The sources of the weights.
        device: where to compute.

    Attributes:
        weights: What each network's weights are, ``none``, ``random`` or a digest: what figures
            depend on.
        ssim: Structural similarity, which needs a library and no network.
        missing: Why those that were asked for are absent, by name.

    Raises:
        EvaluationError: a file that was named is not what it should be.
    """

    def __init__(self, sources: NetworkSources, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.weights: dict[str, str] = {}
        self.ssim = Ssim(self.device)
        self.missing = {} if self.ssim.missing is None else {"ssim": self.ssim.missing}
        backbone = sources.lpips_backbone
        self._lpips = self._had(
            f"lpips-{backbone}", sources.lpips, lambda: Lpips(backbone, sources.lpips)
        )
        self._extractors: dict[str, nn.Module] = {}
        for name, source in ((INCEPTION, sources.inception), (VGG16, sources.vgg16)):
            found = self._had(name, source, lambda n=name, s=source: Extractor(n, s))  # type: ignore[misc]
            if found is not None:
                self._extractors[name] = found

    def _had(self, name: str, source: str, build: Callable[[], nn.Module]) -> nn.Module | None:
        self.weights[name] = NONE
        if source == NONE:
            return None
        try:
            network = build()
        except LibraryError as error:
            self.missing[name] = str(error)
            return None
        self.weights[name] = RANDOM if source == RANDOM else digest(network)
        return network.to(self.device)

    @torch.inference_mode()
    def distances(self, a: Tensor, b: Tensor) -> list[float] | None:
        """LPIPS of every pair of uint8 [B, 3, S, S]; None without the network."""
        if self._lpips is None:
            return None
        pair = (to_model_range(levels.to(self.device)) for levels in (a, b))
        distance: Tensor = self._lpips(*pair)
        return [float(value) for value in distance.cpu()]

    def features(self, levels: Tensor) -> dict[str, Tensor]:
        """Features by network, float32 [B, F] on the CPU, of uint8 [B, 3, S, S]."""
        on_device = levels.to(self.device)
        return {name: network(on_device).cpu() for name, network in self._extractors.items()}
