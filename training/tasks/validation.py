"""Held-out reconstructions while training: which weights are best, and when to stop.

A loss that is itself a network's opinion can be satisfied without better pictures (reward hacking,
supplement A.2), so stage 1B and distillation are watched by a metric that they do not train on.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmo.model.flowmo import FlowMo
from flowmo.model.sampler import noise
from flowmo.training.config import ValidationConfig
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.libraries import library
from flowmo.training.loop.samples import psnr, to_levels
from flowmo.training.perceptual.lpips import Lpips

METRICS = ("psnr", "ssim", "lpips")
"""What ``validation.metric`` may be for a tokenizer."""

_BATCH = 16


class Validator:
    """Reconstructs the same pictures from the same noise at every call.

    Args:
        config: which pictures and metrics.
        size: of the model's images, in pixels.
        device: where to compute.

    Raises:
        DataError: no pictures.
        LibraryError: LPIPS is asked for and its weights cannot be had.
    """

    def __init__(self, config: ValidationConfig, *, size: int, device: torch.device) -> None:
        pictures = held_out_pictures(config.paths, size, limit=config.count)
        self._originals = _stacked(pictures)
        self._device = device
        self._ssim = library("torchmetrics.functional.image").structural_similarity_index_measure
        self._metric = config.metric
        self._lpips = (
            Lpips("vgg", config.lpips_weights).to(device) if config.metric == "lpips" else None
        )

    @torch.no_grad()
    def measure(self, model: FlowMo) -> dict[str, float]:
        """Means over the pictures by metric: ``psnr`` (dB), ``ssim``, and ``lpips`` if it decides.

        Args:
            model: with the weights to judge; it is left in the mode it came in.
        """
        training = model.training
        model.eval()
        values: dict[str, list[float]] = {}
        for first in range(0, len(self._originals), _BATCH):
            levels = self._originals[first : first + _BATCH].to(self._device)
            images = levels / 127.5 - 1.0
            seeds = range(first, first + len(images))
            start = noise(seeds, tuple(images.shape[1:])).to(images)
            quantized = model.quantize(model.encode(images))
            came = to_levels(model.decode(quantized, start=start)).float()
            similarity: Tensor = self._ssim(came, levels, data_range=255.0, reduction="none")
            rounded = came / 127.5 - 1.0
            values.setdefault("psnr", []).extend(psnr(rounded, images).tolist())
            values.setdefault("ssim", []).extend(similarity.tolist())
            if self._lpips is not None:
                values.setdefault("lpips", []).extend(self._lpips(rounded, images).tolist())
        model.train(training)
        return {name: float(np.mean(each)) for name, each in values.items()}


def _stacked(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
