"""Held-out reconstructions while training: which weights are best, and when to stop.

A loss that is itself a network's opinion can be satisfied without better pictures (reward hacking,
supplement A.2), so stage 1B and distillation are watched by a metric that they do not train on.
"""

import numpy as np
import torch
from torch import Tensor

from flowmo.imaging.tensors import as_levels, psnr_of_images, to_levels, to_model_range
from flowmo.model.flowmo import FlowMo
from flowmo.model.sampler import noise
from flowmo.training.config import ValidationConfig
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.errors import LibraryError
from flowmo.training.evaluation.distances import frechet, statistics
from flowmo.training.evaluation.extractors import Inception
from flowmo.training.evaluation.moments import Statistics
from flowmo.training.evaluation.protocol import PYTORCH_FID
from flowmo.training.loop.mesh import Mesh
from flowmo.training.perceptual.exact import exact_float32
from flowmo.training.perceptual.metrics import PAIR_METRICS, PairDistance, pair_distance
from flowmo.training.perceptual.ssim import Ssim

DISTANCES = (*PAIR_METRICS, "rfid")
"""Metrics by a network, of which less is better."""

METRICS = ("psnr", "ssim", *DISTANCES)
"""What ``validation.metric`` may be for a tokenizer."""

_BATCH = 16


class Validator:
    """Reconstructs the same pictures from the same noise at every call.

    Args:
        config: Which pictures and metrics.
        size: Side of the model's images in pixels.
        device: Where to compute.
        mesh: Processes that share the pictures and call :meth:`measure` together; None for this
            one alone.

    Raises:
        ConfigError: A file of weights is not the metric's.
        DataError: There are no pictures.
        LibraryError: The deciding metric needs a library or weights that cannot be had.

    Attributes:
        missing: Why a metric is left out, by its name.
    """

    def __init__(
        self,
        config: ValidationConfig,
        *,
        size: int,
        device: torch.device,
        mesh: Mesh | None = None,
    ) -> None:
        self._mesh = mesh or Mesh(device=device)
        pictures = held_out_pictures(config.paths, size, limit=config.count)
        self._originals = as_levels(pictures)
        self._device, self._metric = device, config.metric
        self._ssim = Ssim(device)
        self.missing = {} if self._ssim.missing is None else {"ssim": self._ssim.missing}
        if config.metric in self.missing:
            raise LibraryError(
                f"validation.metric={config.metric} cannot be measured: "
                f"{self.missing[config.metric]}; or choose validation.metric=psnr"
            )
        self._distance: PairDistance | None = None
        if config.metric in PAIR_METRICS:
            source = config.lpips_weights if config.metric == "lpips" else config.network_weights
            self._distance = pair_distance(
                config.metric,
                source,
                device,
                option="validation.network_weights",
            )
        self._inception: Inception | None = None
        if config.metric == "rfid":
            self._inception = Inception(config.network_weights).to(device)
        # Of the originals' features; made when they are first compared with.
        self._statistics: Statistics | None = None

    @torch.no_grad()
    def measure(self, model: FlowMo) -> dict[str, float]:
        """Means over the pictures by metric: ``psnr`` (dB), ``ssim``, and what decides beside them.

        SSIM is left out where torchmetrics cannot be imported. Networks that measure compute in
        float32, whatever the model computes in.

        Args:
            model: A model with the weights to judge; it is left in the mode it came in.
        """
        training = model.training
        model.eval()
        found: dict[int, dict[str, float]] = {}
        features: dict[int, Tensor] = {}
        own = self._mesh.share(len(self._originals))
        for first in range(0, len(own), _BATCH):
            seeds = own[first : first + _BATCH]
            levels = self._originals[seeds].to(self._device)
            images = to_model_range(levels)
            start = noise(seeds, tuple(images.shape[1:])).to(images)
            quantized = model.quantize(model.encode(images))
            came = to_levels(model.decode(quantized, start=start))
            rounded = to_model_range(came)
            values = {"psnr": list(psnr_of_images(rounded, images))}
            similarities = self._ssim(came, levels)
            if similarities is not None:
                values["ssim"] = list(similarities)
            if self._distance is not None:
                values[self._metric] = self._distance(rounded, images).tolist()
            if self._inception is not None:
                features |= zip(seeds, self._features(came), strict=True)
            for place, number in enumerate(seeds):
                found[number] = {name: each[place] for name, each in values.items()}
        model.train(training)
        rows = self._mesh.join(found)
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        if self._inception is not None:
            means["rfid"] = self._rfid(features, own)
        return means

    def _rfid(self, features: dict[int, Tensor], own: list[int]) -> float:
        if self._statistics is None:
            of_originals: dict[int, Tensor] = {}
            for first in range(0, len(own), _BATCH):
                numbers = own[first : first + _BATCH]
                of_originals |= zip(numbers, self._features(self._originals[numbers]), strict=True)
            self._statistics = statistics(torch.stack(self._mesh.join(of_originals)))
        return frechet(self._statistics, statistics(torch.stack(self._mesh.join(features))))

    def _features(self, levels: Tensor) -> Tensor:
        assert self._inception is not None
        with exact_float32(self._device):
            found: Tensor = self._inception(levels.to(self._device), [PYTORCH_FID])[PYTORCH_FID]
        return found.cpu()
