"""Image codecs at equal bytes: the best that each can do in as many as the tokens have."""

import importlib
import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import PIL
from PIL import Image

from flowmo.imaging.fit import RESAMPLING
from flowmo.imaging.quality import psnr
from flowmo.imaging.reading import Pixels
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.methods import Came

CODECS = {"jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF", "jxl": "JXL"}
"""Names on the command line, and Pillow's names of the formats."""

SHRINKS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16)
QUALITIES = range(1, 96, 3)
_EFFORT: dict[str, dict[str, int | bool]] = {"JPEG": {"optimize": True}, "WEBP": {"method": 6}}


def best_codec(original: Pixels, codec: str, budget: int) -> tuple[Pixels, int] | None:
    """The best that an image codec does in ``budget`` bytes: pixels and size, None if nothing fits.

    The best PSNR over all qualities and over shrinking the picture first, since no codec reaches
    such sizes at full resolution.

    Args:
        original: uint8 [H, W, 3].
        codec: Pillow's name of the format.
        budget: largest file size in bytes, all headers included.
    """
    height, width, _ = original.shape
    best: tuple[float, Pixels, int] | None = None
    for shrink in SHRINKS:
        size_of = max(1, round(width / shrink)), max(1, round(height / shrink))
        small = Image.fromarray(original).resize(size_of, RESAMPLING)
        for quality in QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, codec, quality=quality, **_EFFORT.get(codec, {}))
            size = buffer.tell()
            if size > budget:
                break  # sizes grow with quality
            # Not the pixel path: a codec's file is enlarged by what suits codecs best.
            with Image.open(buffer) as decoded:
                picture = decoded.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
            came = np.asarray(picture)
            quality_db = psnr(original, came)
            if best is None or quality_db > best[0]:
                best = (quality_db, came, size)
    return None if best is None else best[1:]


def writes(codec: str) -> bool:
    """Whether this Pillow writes the format; JPEG XL comes with the package pillow-jxl-plugin."""
    if codec == "JXL":
        with suppress(ImportError):
            importlib.import_module("pillow_jxl")
    Image.init()
    return codec in Image.SAVE


class Codec:
    """An image codec in at most so many bytes a picture.

    Args:
        name: one of :data:`CODECS`.
        budget: bytes.

    Raises:
        EvaluationError: no such codec, or not in this Pillow.
    """

    def __init__(self, name: str, budget: int) -> None:
        if name not in CODECS:
            raise EvaluationError(f"no codec {name!r}; there are {', '.join(CODECS)}")
        if not writes(CODECS[name]):
            raise EvaluationError(f"Pillow {PIL.__version__} here does not write {CODECS[name]}")
        self.name, self._codec, self._budget = name, CODECS[name], budget

    def describe(self) -> dict[str, Any]:
        """Format, bytes and library."""
        return {
            "kind": "codec",
            "format": self._codec,
            "most_bytes": self._budget,
            "pillow": PIL.__version__,
        }

    def reconstruct(self, originals: Sequence[Pixels], numbers: Sequence[int]) -> list[Came | None]:
        """As :class:`flowmo.training.evaluation.methods.Method` says."""
        del numbers
        found = [best_codec(original, self._codec, self._budget) for original in originals]
        return [None if one is None else Came(pixels=one[0], size=one[1]) for one in found]
