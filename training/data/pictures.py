"""Pictures to measure on: numbered, cut and resized the same way everywhere."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from flowmo.training.data.held_out import centred_square, held_out_photographs
from flowmo.training.data.images import Pixels, UnreadableImageError, decode_image
from flowmo.training.data.index import ImageIndex
from flowmo.training.errors import DataError


class PictureList:
    """Pictures by number, read when asked for.

    Args:
        paths: folders, images, tars or patterns; none means the six held-out photographs.
        size: side S of the squares in pixels.
        limit: the most; taken evenly spaced, so that a sorted folder is not cut at one end.

    Raises:
        DataError: there are none.
    """

    def __init__(self, paths: Sequence[str], size: int, *, limit: int | None = None) -> None:
        self.size, self.paths = size, tuple(paths)
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
        """Picture ``number``: uint8 [S, S, 3].

        Raises:
            UnreadableImageError: it does not decode.
            OSError: it is gone.
        """
        place = self._chosen[number]
        if self._index is None:
            return centred_square(self._held_out[place][1], self.size)
        pixels = decode_image(self._index.read(place), short_side=None)
        return centred_square(Image.fromarray(pixels), self.size)

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
        paths: folders, images, tars or patterns; none means the six held-out photographs.
        size: side S of the squares in pixels.
        limit: the most of ``paths``, evenly spaced.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    pictures = PictureList(paths, size, limit=limit if paths else None)
    try:
        return [pictures.square(number) for number in range(len(pictures))]
    except (OSError, UnreadableImageError) as error:
        raise DataError(f"a held-out picture cannot be read: {error}") from error
    finally:
        pictures.close()
