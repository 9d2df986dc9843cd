"""The few pictures that a report shows, as small files."""

from collections.abc import Sequence

from flowmo.imaging.fit import resize_square
from flowmo.imaging.reading import Pixels
from flowmo.imaging.writing import encode_image
from flowmo.training.evaluation.store import Row

EXTREMES = 3
"""Worst and best pictures of a method that a report shows, each."""

_SIDE, _QUALITY = 256, 90


def thumbnail(pixels: Pixels) -> bytes:
    """A WebP file of uint8 [S, S, 3], at most 256 pixels wide: to look at, not to measure."""
    return encode_image(resize_square(pixels, min(len(pixels), _SIDE)), "webp", quality=_QUALITY)


def extremes(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The worst and the best rows by PSNR, the most extreme first; ties by number.

    Those of all pictures are among those of the shards, so each shard keeps its own.
    """
    worst = sorted(rows, key=lambda row: (row.psnr or 0.0, row.number))
    best = sorted(rows, key=lambda row: (-(row.psnr or 0.0), row.number))
    return worst[:EXTREMES], best[:EXTREMES]
