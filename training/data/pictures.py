"""Pictures to measure on: numbered, cut and resized the same way everywhere."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flowmo.imaging.reading import ImageError, Pixels
from flowmo.training.data.held_out import held_out_photographs
from flowmo.training.data.images import read_training_square
from flowmo.training.data.index import ImageIndex
from flowmo.training.errors import DataError


class PictureList:
    """Pictures by number, read when asked for.

    Args:
        paths: Folders, images, tars or patterns; none means the six held-out photographs.
        size: Side S of the squares in pixels.
        limit: Most pictures; they are evenly spaced, so that a sorted folder is not cut at one end.
        read: A file's bytes and S to a square, uint8 [S, S, 3]; as the service by default.

    Raises:
        DataError: There are no pictures.
    """

    def __init__(
        self,
        paths: Sequence[str],
        size: int,
        *,
        limit: int | None = None,
        read: Callable[[bytes, int], Pixels] = read_training_square,
    ) -> None:
        self.size, self.paths, self._read = size, tuple(paths), read
        if limit is not None and limit < 1:
            raise DataError(f"the limit of pictures must be at least 1, got {limit}")
        self._held_out = list(held_out_photographs().items()) if not paths else []
        self._index = ImageIndex(paths) if paths else None
        count = len(self._held_out) if self._index is None else len(self._index)
        chosen = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
        self._chosen: list[int] = chosen.tolist()

    def __len__(self) -> int:
        return len(self._chosen)

    def name(self, number: int) -> str:
        """Where picture ``number`` is."""
        place = self._chosen[number]
        return self._held_out[place][0] if self._index is None else self._index.name(place)

    def square(self, number: int) -> Pixels:
        """Picture ``number`` as it is measured: uint8 [S, S, 3].

        Raises:
            ImageError: The file does not decode.
            OSError: The file is gone.
        """
        place = self._chosen[number]
        data = self._held_out[place][1] if self._index is None else self._index.read(place)
        return self._read(data, self.size)

    def describe(self) -> dict[str, Any]:
        """What decides which pictures these are, JSON-safe."""
        names = hashlib.sha256()
        for number in range(len(self)):
            names.update(self.name(number).encode() + b"\0")
        return {
            "source": list(self.paths) or "held-out photographs",
            "count": len(self),
            "image_size": self.size,
            "names_sha256": names.hexdigest(),
        }

    def close(self) -> None:
        """Close the archives that reads have opened."""
        if self._index is not None:
            self._index.close()


def held_out_pictures(paths: Sequence[str], size: int, *, limit: int) -> list[Pixels]:
    """All of a :class:`PictureList`, uint8 [S, S, 3] each.

    Args:
        paths: Folders, images, tars or patterns; none means the six held-out photographs.
        size: Side S of the squares in pixels.
        limit: Most pictures of ``paths``, evenly spaced.

    Raises:
        DataError: There are no pictures, or one cannot be read.
    """
    pictures = PictureList(paths, size, limit=limit if paths else None)
    try:
        return [pictures.square(number) for number in range(len(pictures))]
    except (OSError, ImageError) as error:
        raise DataError(f"a held-out picture cannot be read: {error}") from error
    finally:
        pictures.close()
