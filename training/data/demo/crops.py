"""Square crops of one picture: where they lie, which are worth keeping, how alike two are."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowmo.imaging.fit import RESAMPLING
from flowmo.imaging.writing import encode_image
from flowmo.training.data.demo.pictures import PictureKind

# Sides as shares of the picture's shorter side. A cut-out shows one thing: half of it shows little.
_SIDES: dict[PictureKind, tuple[float, ...]] = {
    "photograph": (1.0, 0.8, 0.62, 0.48, 0.37, 0.28, 0.2, 0.14),
    "cutout": (1.0, 0.8, 0.62),
}
_JITTER = 0.15  # of the side, so that crops of different pictures are not aligned alike
# Of a large picture no crop is stored at its pixels' full resolution: at that of a camera's sensor
# pictures are soft, and show bits of things.
_LARGE_PICTURE = 1_000_000  # pixels
_LEAST_SHRINK = 1.6
_MOST_ENLARGED = 1.6
# Least contrast (standard deviation), detail (mean difference of neighbours) and share of edges
# (differences over _EDGE), in levels of luminance.
_CONTRAST, _DETAIL, _EDGE, _EDGE_SHARE = 12.0, 2.2, 12.0, 0.006
# Differing bits, of 64, up to which two crops are near-duplicates. In soft crops the signs that
# the hash is made of come from small differences, so that alike ones are further apart.
_ALIKE, _ALIKE_SOFT, _SOFT = 4, 6, 8.0


class Box(NamedTuple):
    """A square of a picture, in its pixels."""

    x: int
    y: int
    side: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """An encoded crop and where it comes from.

    ``hash`` is its :func:`difference_hash`, ``radius`` the distance at which another crop is a
    near-duplicate of it.
    """

    box: Box
    data: bytes
    hash: int
    radius: int


def candidate_boxes(
    width: int, height: int, size: int, *, kind: PictureKind, generator: np.random.Generator
) -> Iterator[Box]:
    """Squares at every useful scale, the scales taking turns, in random order within each.

    The first is a square of the whole shorter side. Neighbours of one scale overlap by half (by
    three quarters at the two largest scales).

    Args:
        width: The width of the picture, pixels.
        height: The height of the picture, pixels.
        size: side at which crops are stored, pixels.
        kind: The kind of the picture.
        generator: The random numbers of this picture alone.

    Yields:
        Boxes inside the picture; none if it is too small for one.
    """
    short = min(width, height)
    large = width * height >= _LARGE_PICTURE
    scales: list[list[Box]] = []
    for share in _SIDES[kind]:
        side = int(short * share)
        least = size * _LEAST_SHRINK if large else size
        if side < (size / _MOST_ENLARGED if share == 1.0 else least):
            break
        boxes = list(_grid(width, height, side, generator))
        generator.shuffle(boxes)
        scales.append([Box(*map(int, box)) for box in boxes])
    for turn in range(max(map(len, scales), default=0)):
        yield from (boxes[turn] for boxes in scales if turn < len(boxes))


def _grid(
    width: int, height: int, side: int, generator: np.random.Generator
) -> Iterator[tuple[int, int, int]]:
    stride = side * (0.25 if side > 0.7 * min(width, height) else 0.5)
    for y in np.linspace(0, height - side, int((height - side) / stride) + 1):
        for x in np.linspace(0, width - side, int((width - side) / stride) + 1):
            shift = generator.uniform(-_JITTER, _JITTER, 2) * side
            yield (
                int(np.clip(x + shift[0], 0, width - side)),
                int(np.clip(y + shift[1], 0, height - side)),
                side,
            )


def most_crops(width: int, height: int, size: int, *, limit: int) -> int:
    """Crops to take of a picture: four times as many as fit side by side, at most ``limit``."""
    return max(1, min(limit, math.ceil(4 * width * height / size**2)))


def cut(picture: Image.Image, box: Box, size: int) -> Image.Image:
    """The crop, resized to ``size`` pixels square (Lanczos, after an area mean if much larger)."""
    return picture.resize(
        (size, size),
        RESAMPLING,
        box=(box.x, box.y, box.x + box.side, box.y + box.side),
        reducing_gap=3.0,
    )


def detail(crop: Image.Image) -> float | None:
    """Mean difference of neighbouring pixels in levels of luminance; None for a flat crop."""
    luminance = np.asarray(crop.convert("L"), dtype=np.float32)
    across, down = (np.abs(np.diff(luminance, axis=axis)) for axis in (1, 0))
    mean = float(across.mean() + down.mean()) / 2
    edges = float((across > _EDGE).mean() + (down > _EDGE).mean()) / 2
    if luminance.std() < _CONTRAST or mean < _DETAIL or edges < _EDGE_SHARE:
        return None
    return mean


def difference_hash(image: Image.Image) -> int:
    """64 bits: whether luminance rises from each cell to the next of a 9x8 reduction.

    It hardly changes with size, compression or brightness.
    """
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes())


def encode_crop(crop: Image.Image, box: Box, *, amount_of_detail: float, quality: int) -> Crop:
    """As WebP.

    Args:
        crop: resized.
        box: where it was.
        amount_of_detail: what :func:`detail` said.
        quality: WebP's, 0 ... 100.
    """
    return Crop(
        box=box,
        data=encode_image(np.asarray(crop), "webp", quality=quality),
        hash=difference_hash(crop),
        radius=_ALIKE_SOFT if amount_of_detail < _SOFT else _ALIKE,
    )


class SeenHashes:
    """Hashes so far, to find near-duplicates among all crops."""

    def __init__(self) -> None:
        self._hashes: NDArray[np.uint64] = np.empty(1024, dtype=np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def has_near(self, value: int, radius: int) -> bool:
        """Whether one within ``radius`` bits is known."""
        known = self._hashes[: self._count]
        return bool((np.bitwise_count(known ^ np.uint64(value)) <= radius).any())

    def add_if_new(self, value: int, radius: int) -> bool:
        """Remember a hash unless one within ``radius`` bits is known; says whether it was new."""
        if self.has_near(value, radius):
            return False
        if self._count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[self._count] = value
        self._count += 1
        return True
