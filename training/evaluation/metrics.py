"""Figures of single pictures, all on 8-bit values (training.evaluation.protocol)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowmo.training.data.images import Pixels
from flowmo.training.evaluation.protocol import IDENTICAL_PSNR
from flowmo.training.libraries import library


def as_tensor(pictures: Sequence[Pixels]) -> Tensor:
    """uint8 [S, S, 3] each to uint8 [B, 3, S, S]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of two pictures; identical ones have 120 dB."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return IDENTICAL_PSNR if error == 0 else 10 * math.log10(255.0**2 / error)


def ssim(a: Tensor, b: Tensor, device: torch.device | str = "cpu") -> list[float]:
    """SSIM of every pair of uint8 [B, 3, S, S], S at least 11.

    Raises:
        LibraryError: torchmetrics is missing.
    """
    measure: Any = library("torchmetrics.functional.image").structural_similarity_index_measure
    pair = (levels.to(device).double() for levels in (a, b))
    values: Tensor = measure(*pair, data_range=255.0, reduction="none")
    return [float(value) for value in values.flatten().cpu()]
