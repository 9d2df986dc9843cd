"""The few pictures that a report shows, as small files."""

import io
from collections.abc import Sequence

from PIL import Image

from flowmo.training.data.images import Pixels
from flowmo.training.evaluation.store import Row

EXTREMES = 3
"""Worst and best pictures of a method that a report shows, each."""

_SIDE, _QUALITY = 256, 90


def thumbnail(pixels: Pixels) -> bytes:
    """A WebP file of uint8 [S, S, 3], at most 256 pixels wide: to look at, not to measure."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return buffer.getvalue()


def extremes(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The worst and the best rows by PSNR, the most extreme first; ties by number.

    Those of all pictures are among those of the shards, so each shard keeps its own.
    """
    worst = sorted(rows, key=lambda row: (row.psnr or 0.0, row.number))
    best = sorted(rows, key=lambda row: (-(row.psnr or 0.0), row.number))
    return worst[:EXTREMES], best[:EXTREMES]
