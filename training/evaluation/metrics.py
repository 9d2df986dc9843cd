"""Structural similarity of single pictures, on 8-bit values (training.evaluation.protocol)."""

from typing import Any

import torch
from torch import Tensor

from flowmo.training.libraries import library


def ssim(a: Tensor, b: Tensor, device: torch.device | str = "cpu") -> list[float]:
    """SSIM of every pair of uint8 [B, 3, S, S], S at least 11.

    Raises:
        LibraryError: The package torchmetrics is missing.
    """
    measure: Any = library("torchmetrics.functional.image").structural_similarity_index_measure
    pair = (levels.to(device).double() for levels in (a, b))
    values: Tensor = measure(*pair, data_range=255.0, reduction="none")
    return [float(value) for value in values.flatten().cpu()]
