"""A checkpoint at other resolutions than its own: tiles that are blended (supplement C.2)."""

from collections.abc import Sequence
from typing import Any

import torch

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images, to_picture
from flowmo.model.config import SamplerConfig
from flowmo.model.inference import InferenceModel
from flowmo.model.layout import PictureLayout
from flowmo.model.pictures import decode_tiles, tile_batches
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE, overlap_pixels
from flowmo.training.evaluation.methods import Came, truncated

TILES_AT_ONCE = 16


class TiledCheckpointMethod:
    """A FlowMo model on pictures of any size, as the library and the service do it.

    Args:
        model: that reconstructs.
        sampler: how; the model's own by default.
        name: in the report.
        overlap: the share of a tile's side that neighbours have in common at least, 0 to 0.5.
        truncates: Whether values lose their fraction where they become 8 bits.

    Raises:
        ConfigError: The overlap is out of its range.
    """

    def __init__(
        self,
        model: InferenceModel,
        *,
        sampler: SamplerConfig | None = None,
        name: str = "flowmo",
        overlap: float = DEFAULT_OVERLAP_SHARE,
        truncates: bool = False,
    ) -> None:
        self.name, self._truncates = name, truncates
        self._model, self._sampler = model, sampler or model.config.sampler
        self._overlap = overlap_pixels(model.config.image_size, overlap)

    def describe(self) -> dict[str, Any]:
        """Fingerprint, sampler, dtype, tiles."""
        return {
            "kind": "tiled checkpoint",
            "model": self._model.config.name,
            "fingerprint": self._model.fingerprint,
            "sampler": self._sampler.to_dict(),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "values": "truncated" if self._truncates else "rounded",
            "tile_size": self._model.config.image_size,
            "overlap": self._overlap,
        }

    def layout(self, width: int, height: int) -> PictureLayout:
        """The tiles of a picture of so many pixels."""
        size = self._model.config.image_size
        return PictureLayout(width=width, height=height, tile_size=size, overlap=self._overlap)

    def token_bytes(self, side: int) -> int:
        """The bytes of the tokens of a square of so many pixels a side."""
        return self.layout(side, side).tiles * self._model.config.payload_bytes

    def reconstruct(self, originals: Sequence[Pixels], numbers: Sequence[int]) -> list[Came | None]:
        """As :class:`Method` says; pictures of any size, one after the other."""
        return [
            self._reconstruct(original, number)
            for original, number in zip(originals, numbers, strict=True)
        ]

    def _reconstruct(self, original: Pixels, number: int) -> Came:
        model, config = self._model, self._model.config
        height, width, _ = original.shape
        layout = self.layout(width, height)
        batches = tile_batches(original, layout.tiling, TILES_AT_ONCE)
        code = torch.cat([model.quantize(model.encode(to_images(batch))) for batch in batches])
        made = decode_tiles(
            model, code, layout, seed=number, sampler=self._sampler, tiles_at_once=TILES_AT_ONCE
        )
        size = layout.tiles * config.payload_bytes if config.quantizer == "lfq" else None
        pixels = truncated(made[None])[0] if self._truncates else to_picture(made)
        return Came(pixels=pixels, size=size)
