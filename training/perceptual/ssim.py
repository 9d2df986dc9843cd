"""Structural similarity of single pictures, on 8-bit values (training.evaluation.protocol)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmo.training.errors import LibraryError
from flowmo.training.libraries import library

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_UNIFORM = 7


class Ssim:
    """SSIM with one of two windows.

    Args:
        device: The device to compute on.
        window: ``gaussian``, 11 pixels wide with sigma 1.5, by torchmetrics, or nothing where that
            cannot be imported; ``uniform``, 7 x 7 pixels, which needs no library.

    Attributes:
        missing: Why there is no SSIM; None where there is.
        computed_by: What computes it: ``torchmetrics``, ``uniform 7 x 7`` or ``none``.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        window: Literal["gaussian", "uniform"] = "gaussian",
    ) -> None:
        self._device = device
        self.missing: str | None = None
        self.computed_by = "uniform 7 x 7"
        self._measure: Any = uniform_ssim
        if window == "gaussian":
            try:
                images = library("torchmetrics.functional.image")
            except LibraryError as error:
                self.missing, self._measure, self.computed_by = str(error), None, "none"
            else:
                self._measure = images.structural_similarity_index_measure
                self.computed_by = "torchmetrics"

    def __call__(self, a: Tensor, b: Tensor) -> list[float] | None:
        """The SSIM of every pair of uint8 [B, 3, S, S], S at least 11; None without torchmetrics.

        Data range 255, in float64.
        """
        if self._measure is None:
            return None
        pair = (levels.to(self._device).double() for levels in (a, b))
        if self._measure is uniform_ssim:
            values: Tensor = uniform_ssim(*pair)
        else:
            values = self._measure(*pair, data_range=255.0, reduction="none")
        return [float(value) for value in values.flatten().cpu()]


def uniform_ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) with a uniform window, averaged over whole windows and channels.

    Variances are those of a sample (divided by 48, not by 49), as scikit-image's default has it.

    Args:
        a: [B, C, H, W] in 0 ... 255; H and W at least 7.
        b: The same shape and range.

    Returns:
        [B].
    """
    # Channels are measured one by one, and windows that reach over an edge are left out.
    mean_a, mean_b = _window(a), _window(b)
    numbers = _UNIFORM**2
    unbiased = numbers / (numbers - 1)
    variance_a = unbiased * (_window(a * a) - mean_a**2)
    variance_b = unbiased * (_window(b * b) - mean_b**2)
    covariance = unbiased * (_window(a * b) - mean_a * mean_b)
    likeness = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    )
    return likeness.mean((1, 2, 3))


def _window(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, _UNIFORM, stride=1)
