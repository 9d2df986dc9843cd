"""The networks and libraries that figures need, each had or missed by itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowmo.imaging.tensors import to_model_range
from flowmo.training.errors import LibraryError
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.extractors import LOGITS, SPATIAL, Inception, Vgg16
from flowmo.training.evaluation.protocol import INCEPTION, SERVICE, VGG16, Protocol
from flowmo.training.perceptual.exact import exact_float32
from flowmo.training.perceptual.lpips import Backbone, Lpips
from flowmo.training.perceptual.ssim import Ssim
from flowmo.training.perceptual.weights import LIBRARY, NONE, RANDOM, digest


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSources:
    """Where weights come from: ``library``, ``random``, ``none`` or a file, each.

    Attributes:
        lpips: The source of LPIPS' backbone, torchvision's VGG-16 or AlexNet.
        lpips_backbone: which of the two.
        inception: torch-fidelity's InceptionV3, for rFID, and for precision and recall of the
            protocol ``paper``.
        vgg16: torchvision's VGG-16, for the protocol ``service``'s precision and recall.

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


ADM_FEATURES = (INCEPTION, SPATIAL, LOGITS)
"""What ADM's evaluator measures generated pictures by."""


class Networks:
    """Networks on a device. One whose weights cannot be had is absent, with the reason.

    They compute in float32, without TF32 and autocast.

    Args:
        sources: The sources of the weights.
        device: where to compute.
        protocol: Which features and which window of SSIM figures rest on.

    Attributes:
        protocol: The protocol.
        weights: What each network's weights are, ``none``, ``random`` or a digest: what figures
            depend on.
        ssim: Structural similarity, which needs no network.
        missing: Why those that were asked for are absent, by name.

    Raises:
        EvaluationError: a file that was named is not what it should be.
    """

    def __init__(
        self,
        sources: NetworkSources,
        device: torch.device | str = "cpu",
        *,
        protocol: Protocol = SERVICE,
    ) -> None:
        self.device, self.protocol = torch.device(device), protocol
        self.weights: dict[str, str] = {}
        self.ssim = Ssim(self.device, window=protocol.ssim)
        self.missing = {} if self.ssim.missing is None else {"ssim": self.ssim.missing}
        backbone = sources.lpips_backbone
        self._lpips = self._had(
            f"lpips-{backbone}", sources.lpips, lambda: Lpips(backbone, sources.lpips)
        )
        self._inception = self._had(
            INCEPTION, sources.inception, lambda: Inception(sources.inception)
        )
        # Nobody is told that a network is missing which the protocol makes no use of.
        source = sources.vgg16 if protocol.manifold == VGG16 else NONE
        self._vgg16 = self._had(VGG16, source, lambda: Vgg16(source))

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
        with exact_float32(self.device):
            distance: Tensor = self._lpips(*pair)
        return [float(value) for value in distance.cpu()]

    def features(self, levels: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Features by name, of those networks that there are.

        Args:
            levels: uint8 [B, 3, S, S].
            names: Which features; by default those that the protocol's figures rest on.

        Returns:
            float32 [B, F] each, on the CPU.
        """
        protocol = self.protocol
        # Other pictures are compared with by TensorFlow's resizing under either protocol.
        wanted = {protocol.fid, protocol.manifold, INCEPTION} if names is None else set(names)
        found: dict[str, Tensor] = {}
        on_device = levels.to(self.device)
        with exact_float32(self.device):
            if self._inception is not None:
                found |= self._inception(on_device, wanted)
            if self._vgg16 is not None and VGG16 in wanted:
                found |= self._vgg16(on_device)
        return {name: features.cpu() for name, features in found.items()}
