"""What turns pictures into reconstructions: a checkpoint, or something to compare it with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images, to_pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Came:
    """One reconstruction.

    Attributes:
        pixels: uint8 [S, S, 3].
        size: bytes that it was made from; None where that has no meaning.
    """

    pixels: Pixels
    size: int | None


class Method(Protocol):
    """Something that reconstructs."""

    @property
    def name(self) -> str:
        """For people, and unique in an evaluation."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that decides its results, JSON-safe: a stopped evaluation goes on only with it."""
        ...

    def reconstruct(
        self, originals: Sequence[Pixels], numbers: Sequence[int]
    ) -> Sequence[Came | None]:
        """Reconstruct a batch.

        Args:
            originals: uint8 [S, S, 3] each.
            numbers: The numbers of the pictures, for seeds.

        Returns:
            One a picture, None where it cannot be had.
        """
        ...


class CheckpointMethod:
    """A FlowMo model: through tokens and back, or through its posterior's mean.

    Args:
        model: that reconstructs.
        sampler: how; the model's own by default.
        name: in the report.
        noise_scale: factor on the initial noise (supplement C.1); 1 is the model's own.
        truncates: Whether values lose their fraction where they become 8 bits, as in the protocol
            ``paper``, instead of being rounded.
    """

    def __init__(
        self,
        model: InferenceModel,
        *,
        sampler: SamplerConfig | None = None,
        name: str = "flowmo",
        noise_scale: float = 1.0,
        truncates: bool = False,
    ) -> None:
        self.name, self._truncates = name, truncates
        self._model, self._sampler = model, sampler or model.config.sampler
        self._noise_scale = noise_scale

    def describe(self) -> dict[str, Any]:
        """Fingerprint, sampler and dtype."""
        return {
            "kind": "checkpoint",
            "model": self._model.config.name,
            "fingerprint": self._model.fingerprint,
            "sampler": self._sampler.to_dict(),
            "noise_scale": self._noise_scale,
            "values": "truncated" if self._truncates else "rounded",
            "dtype": str(self._model.dtype).removeprefix("torch."),
        }

    def reconstruct(self, originals: Sequence[Pixels], numbers: Sequence[int]) -> list[Came | None]:
        """As :class:`Method` says."""
        model, config = self._model, self._model.config
        images = to_images(originals)
        start = self._noise_scale * noise(numbers, tuple(images.shape[1:]))
        # The signs are what the tokens carry (tested with the tokens), and a continuous model has
        # no tokens.
        quantized = model.quantize(model.encode(images))
        came = model.decode(quantized, start=start, sampler=self._sampler)
        pixels = truncated(came) if self._truncates else to_pixels(came)
        size = config.payload_bytes if config.quantizer == "lfq" else None
        return [Came(pixels=one, size=size) for one in pixels]


def truncated(images: Tensor) -> Pixels:
    """Values [B, 3, S, S] in [-1, 1] to uint8 [B, S, S, 3], clipped and cut off, not rounded."""
    levels = ((images.float() + 1.0) * 127.5).clamp(0, 255).to(torch.uint8)
    pixels: Pixels = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


class MeanColour:
    """The mean colour of each picture everywhere: what knowing three bytes gives."""

    name = "mean-colour"

    def describe(self) -> dict[str, Any]:
        """Nothing to set."""
        return {"kind": "mean-colour"}

    def reconstruct(self, originals: Sequence[Pixels], numbers: Sequence[int]) -> list[Came | None]:
        """As :class:`Method` says."""
        del numbers
        return [Came(pixels=mean_colour(original), size=3) for original in originals]


def mean_colour(original: Pixels) -> Pixels:
    """The picture's mean colour everywhere: uint8 [S, S, 3] to the same."""
    mean = original.reshape(-1, 3).mean(0).round().astype(np.uint8)
    return np.broadcast_to(mean, original.shape).copy()
