"""An engine that costs next to nothing: what is left is what a server does around it.

The runner of ``--runner benchmarks.serving.instant:make``. Its only step, of one that begins at any
noise, ends at a photograph of 256 x 256 pixels, so that image files cost what real ones do.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowmo.imaging.fit import fit_image
from flowmo.imaging.reading import Pixels, read_image
from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig
from flowmo.model.container import Container
from flowmo.model.tokens import Tokens
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.engine.model_info import ModelInfo

SIZE = 256
_PHOTOGRAPH = Path(__file__).resolve().parents[2] / "flowmo" / "photographs" / "coffee.png"
_TRANSFORMER = TransformerConfig(width=48, depth=1, heads=4)
_CONFIG = FlowMoConfig(
    name="instant",
    image_size=SIZE,
    patch_size=8,
    encoder=_TRANSFORMER,
    decoder=_TRANSFORMER,
    code_length=256,
    token_bits=18,
    group_bits=9,
    sampler=SamplerConfig(steps=1, guidance=1.0),
)
_TOKENS = Tokens(ids=np.zeros((256, 2), np.int32), group_bits=9)
_FINGERPRINT = "0" * 32


def container() -> bytes:
    """Tokens that it decodes."""
    return Container(tokens=_TOKENS, fingerprint=_FINGERPRINT, width=SIZE, height=SIZE).to_bytes()


class InstantRunner:
    """Encodes to zeros and decodes to a photograph, at once."""

    def __init__(self) -> None:
        image = read_image(_PHOTOGRAPH.read_bytes(), max_pixels=2**24)
        self._picture = fit_image(image, SIZE, "crop").pixels
        self.info = ModelInfo(fingerprint=_FINGERPRINT, config=_CONFIG, device="cpu", dtype="none")
        self.buckets = (1, 2, 4, 8, 16, 32)
        self.device = torch.device("cpu")
        self._zeros = torch.zeros(self.buckets[-1], 3, SIZE, SIZE)

    def synchronize(self) -> None:
        """See :class:`RunnerBase`."""

    def record(self) -> None:
        """See :class:`DecoderRunner`."""

    def encode(self, pixels: Pixels) -> list[Tokens]:
        """See :class:`EncoderRunner`."""
        return [_TOKENS] * len(pixels)

    def check(self, tokens: Tokens) -> None:
        """See :class:`DecoderRunner`."""

    def begin(self, tokens: Tokens, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """See :class:`DecoderRunner`."""
        return self._zeros[0], torch.zeros(256, 19)

    def velocity(self, x: Tensor, times: Sequence[float], condition: Tensor) -> Tensor:  # noqa: ARG002
        """See :class:`DecoderRunner`."""
        return self._zeros[: len(x)]

    def pixels(self, x: Tensor) -> Pixels:
        """See :class:`DecoderRunner`."""
        return np.repeat(self._picture[None], len(x), axis=0)


def make(config: RunnerConfig) -> InstantRunner:  # noqa: ARG001
    """The runner, whatever the model."""
    return InstantRunner()
