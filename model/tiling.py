"""Which tiles cover a picture of any size, and how much each counts where they overlap.

A picture of W x H pixels is covered by squares of the model's size S. Along each axis there are as
few tiles as neighbours that share at least ``overlap`` pixels allow, spread evenly from edge to
edge. A picture smaller than a tile is padded to one (:func:`frame_pixels`), so the frame that the
tiles cover has max(W, S) x max(H, S) pixels. Everything is a pure function of (W, H, S, overlap):
a container stores these four numbers and no list of tiles (supplement C.2, Table 3: pictures of
other resolutions are decoded in overlapping patches).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowmo.model.errors import ConfigError

MAX_OVERLAP_SHARE = 0.5
DEFAULT_OVERLAP_SHARE = 0.1875


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One square of a tiling, in pixels of the frame.

    Attributes:
        index: Its number, row by row from the top left.
        left: The first column.
        top: The first row.
        size: S, the side of the square.
    """

    index: int
    left: int
    top: int
    size: int

    @property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns of the frame that the tile covers, to index [..., H, W] with."""
        return slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """The tiles of a picture.

    Args:
        width: W, the picture's width in pixels, at least 1.
        height: H, the picture's height in pixels, at least 1.
        size: S, the side of a tile in pixels.
        overlap: The fewest pixels that neighbours share, 0 to S / 2.

    Attributes:
        lefts: The first column of every column of tiles, ascending.
        tops: The first row of every row of tiles, ascending.

    Raises:
        ConfigError: A number is out of its range.
    """

    width: int
    height: int
    size: int
    overlap: int = 0
    lefts: tuple[int, ...] = field(init=False)
    tops: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.size) < 1:
            raise ConfigError(
                f"a picture and its tiles have at least one pixel a side, got {self.width} x "
                f"{self.height} in tiles of {self.size}"
            )
        if not 0 <= self.overlap <= self.size * MAX_OVERLAP_SHARE:
            raise ConfigError(
                f"tiles of {self.size} pixels overlap by 0 to "
                f"{int(self.size * MAX_OVERLAP_SHARE)} pixels, got {self.overlap}"
            )
        object.__setattr__(self, "lefts", _starts(self.width, self.size, self.overlap))
        object.__setattr__(self, "tops", _starts(self.height, self.size, self.overlap))

    @property
    def frame(self) -> tuple[int, int]:
        """Width and height in pixels of what the tiles cover: the picture, padded to one tile."""
        return max(self.width, self.size), max(self.height, self.size)

    @property
    def columns(self) -> int:
        """The number of tiles side by side."""
        return len(self.lefts)

    @property
    def rows(self) -> int:
        """The number of tiles one above the other."""
        return len(self.tops)

    @property
    def count(self) -> int:
        """T, the number of tiles."""
        return self.columns * self.rows

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tile:
        """The tile of a number, 0 to T - 1.

        Raises:
            IndexError: There is no such tile.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"tile {index} of {self.count}")
        row, column = divmod(index, self.columns)
        return Tile(index=index, left=self.lefts[column], top=self.tops[row], size=self.size)

    def __iter__(self) -> Iterator[Tile]:
        return (self[index] for index in range(self.count))

    def touching(self, left: int, top: int, width: int, height: int) -> tuple[int, ...]:
        """The numbers of the tiles that share a pixel with a region of the picture, ascending.

        Args:
            left: The region's first column.
            top: The region's first row.
            width: The region's width in pixels.
            height: The region's height in pixels.

        Raises:
            ConfigError: The region is empty or not inside the picture.
        """
        inside = 0 <= left < left + width <= self.width and 0 <= top < top + height <= self.height
        if not inside:
            raise ConfigError(
                f"a region lies inside the picture of {self.width} x {self.height} pixels and is "
                f"not empty, got {left},{top},{width},{height} (x, y, width, height)"
            )
        across = _between(self.lefts, self.size, left, left + width)
        down = _between(self.tops, self.size, top, top + height)
        return tuple(row * self.columns + column for row in down for column in across)

    def part(self, left: int, top: int, width: int, height: int) -> "TilingPart":
        """The tiles that a region of the picture needs, as a tiling of their own.

        Args:
            left: The region's first column.
            top: The region's first row.
            width: The region's width in pixels.
            height: The region's height in pixels.

        Raises:
            ConfigError: The region is empty or not inside the picture.
        """
        numbers = self.touching(left, top, width, height)
        first, last = self[numbers[0]], self[numbers[-1]]
        across = [x for x in self.lefts if first.left <= x <= last.left]
        down = [y for y in self.tops if first.top <= y <= last.top]
        tiling = Tiling(
            width=last.left + self.size - first.left,
            height=last.top + self.size - first.top,
            size=self.size,
            overlap=self.overlap,
        )
        # Where they stand in the whole, which is not where they would be spread by themselves.
        object.__setattr__(tiling, "lefts", tuple(x - first.left for x in across))
        object.__setattr__(tiling, "tops", tuple(y - first.top for y in down))
        return TilingPart(numbers=numbers, left=first.left, top=first.top, tiling=tiling)

    def weights(self, index: int) -> NDArray[np.float32]:
        """How much a tile counts at each of its pixels, float32 [S, S] in (0, 1].

        A raised cosine falls over what it shares with each neighbour. At every pixel of the frame
        the weights of all tiles add up to 1.
        """
        row, column = divmod(index, self.columns)
        across = axis_weights(self.lefts, self.size)[column]
        down = axis_weights(self.tops, self.size)[row]
        product: NDArray[np.float32] = np.outer(down, across).astype(np.float32)
        return product


@dataclass(frozen=True, kw_only=True, slots=True)
class TilingPart:
    """Some columns and rows of a tiling's tiles, which is a tiling, too.

    Attributes:
        numbers: The tiles' numbers in the whole, ascending.
        left: The first column of the first tile in the whole's frame.
        top: Its first row there.
        tiling: The tiles by themselves; their weights add up to 1 wherever they are, and are those
            of the whole wherever no other tile of the whole is.
    """

    numbers: tuple[int, ...]
    left: int
    top: int
    tiling: Tiling


def overlap_pixels(size: int, share: float) -> int:
    """The pixels that a share of a tile's side is.

    Args:
        size: S, the side of a tile in pixels.
        share: 0 to 0.5.

    Raises:
        ConfigError: The share is out of its range.
    """
    if not 0 <= share <= MAX_OVERLAP_SHARE:
        raise ConfigError(f"tiles overlap by a share of 0 to {MAX_OVERLAP_SHARE}, got {share!r}")
    return round(size * share)


def axis_weights(starts: tuple[int, ...], size: int) -> NDArray[np.float64]:
    """How much each tile along one axis counts at each of its pixels, float64 [n, S].

    Args:
        starts: The first pixel of each tile, ascending.
        size: S.
    """
    windows = np.ones((len(starts), size))
    for i, (start, following) in enumerate(itertools.pairwise(starts)):
        shared = start + size - following
        if shared > 0:
            ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(shared) + 0.5) / shared)
            windows[i, size - shared :] *= ramp[::-1]
            windows[i + 1, :shared] *= ramp
    # Two ramps add up to 1; where tiles are so dense that three meet, they are made to.
    total = np.zeros(starts[-1] + size)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + size] += window
    return np.stack(
        [window / total[s : s + size] for s, window in zip(starts, windows, strict=True)]
    )


def frame_pixels(pixels: NDArray[np.uint8], tiling: Tiling) -> NDArray[np.uint8]:
    """A picture as the tiles cover it: padded on the right and below by reflection, if it is small.

    Args:
        pixels: uint8 [H, W, 3].
        tiling: The tiling of a picture of this size.

    Returns:
        uint8 [max(H, S), max(W, S), 3]; the picture is its top left part.
    """
    height, width, _ = pixels.shape
    assert (width, height) == (tiling.width, tiling.height), (pixels.shape, tiling)
    right, below = tiling.frame[0] - width, tiling.frame[1] - height
    if not (right or below):
        return pixels
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="reflect")


def _starts(length: int, size: int, overlap: int) -> tuple[int, ...]:
    """The first pixels of as few tiles as cover a length, spread evenly from end to end."""
    free = max(length - size, 0)
    gaps = math.ceil(free / (size - overlap))
    return tuple(round(i * free / gaps) for i in range(gaps + 1)) if gaps else (0,)


def _between(starts: tuple[int, ...], size: int, begin: int, end: int) -> list[int]:
    return [i for i, start in enumerate(starts) if start < end and begin < start + size]
