"""Structural similarity of single pictures, on 8-bit values (training.evaluation.protocol)."""

from typing import Any

import torch
from torch import Tensor

from flowmo.training.errors import LibraryError
from flowmo.training.libraries import library


class Ssim:
    """SSIM by torchmetrics, or nothing where that cannot be imported.

    Args:
        device: The device to compute on.

    Attributes:
        missing: Why there is no SSIM; None where there is.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self.missing: str | None = None
        self._measure: Any = None
        try:
            images = library("torchmetrics.functional.image")
        except LibraryError as error:
            self.missing = str(error)
        else:
            self._measure = images.structural_similarity_index_measure

    def __call__(self, a: Tensor, b: Tensor) -> list[float] | None:
        """The SSIM of every pair of uint8 [B, 3, S, S], S at least 11; None without torchmetrics.

        Gaussian window of 11 pixels, sigma 1.5, data range 255, in float64.
        """
        if self._measure is None:
            return None
        pair = (levels.to(self._device).double() for levels in (a, b))
        values: Tensor = self._measure(*pair, data_range=255.0, reduction="none")
        return [float(value) for value in values.flatten().cpu()]
