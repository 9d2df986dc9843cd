"""Held-out reconstructions while training: which weights are best, and when to stop.

A loss that is itself a network's opinion can be satisfied without better pictures (reward hacking,
supplement A.2), so stage 1B and distillation are watched by a metric that they do not train on.
"""

import numpy as np
import torch

from flowmo.imaging.tensors import as_levels, psnr_of_images, to_levels, to_model_range
from flowmo.model.flowmo import FlowMo
from flowmo.model.sampler import noise
from flowmo.training.config import ValidationConfig
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.errors import LibraryError
from flowmo.training.loop.mesh import Mesh
from flowmo.training.perceptual.lpips import Lpips
from flowmo.training.perceptual.ssim import Ssim

METRICS = ("psnr", "ssim", "lpips")
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
        self._device = device
        self._ssim = Ssim(device)
        self.missing = {} if self._ssim.missing is None else {"ssim": self._ssim.missing}
        if config.metric in self.missing:
            raise LibraryError(
                f"validation.metric={config.metric} cannot be measured: "
                f"{self.missing[config.metric]}; or choose validation.metric=psnr"
            )
        self._lpips = (
            Lpips("vgg", config.lpips_weights).to(device) if config.metric == "lpips" else None
        )

    @torch.no_grad()
    def measure(self, model: FlowMo) -> dict[str, float]:
        """Means over the pictures by metric: ``psnr`` (dB), ``ssim``, and ``lpips`` if it decides.

        SSIM is left out where torchmetrics cannot be imported.

        Args:
            model: A model with the weights to judge; it is left in the mode it came in.
        """
        training = model.training
        model.eval()
        found: dict[int, dict[str, float]] = {}
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
            if self._lpips is not None:
                values["lpips"] = self._lpips(rounded, images).tolist()
            for place, number in enumerate(seeds):
                found[number] = {name: each[place] for name, each in values.items()}
        model.train(training)
        rows = self._mesh.join(found)
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
