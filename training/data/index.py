"""A random-access index of images, wherever they are.

Entries are ordered by (order of the given paths, name), so a folder, a tar of that folder and a
copy of either at a URL give the same images in the same order.
"""

from collections.abc import Callable, Sequence

import numpy as np

from flowmo.training.data.sources.index_cache import IndexCache
from flowmo.training.data.sources.locations import open_sources
from flowmo.training.data.sources.source import Source
from flowmo.training.data.sources.suffixes import IMAGE_SUFFIXES
from flowmo.training.data.sources.urls import shown
from flowmo.training.errors import DataError


class ImageIndex(Source):
    """Where each image's bytes are, over all sources.

    Args:
        paths: folders, images, tars, patterns, URLs and data sets
            (:class:`flowmo.training.config.DataConfig`).
        cache: folder where indexes of tars are kept; None or "" keeps none.
        report: Is notified of what takes long.

    Raises:
        DataError: a path does not exist, an archive cannot be read, storage fails, or there is no
            image.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        cache: str | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        report = report or _report_to_nobody
        self._sources = open_sources(paths, cache=IndexCache(cache, report=report), report=report)
        self._ends = np.cumsum([len(source) for source in self._sources], dtype=np.int64)
        if not len(self):
            raise DataError(
                f"no images in {', '.join(map(shown, paths)) or 'the (empty) list of paths'}; "
                f"looked for files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, i: int) -> str:
        """Where image ``i`` is, for messages."""
        source, inner = self._find(i)
        return self._sources[source].name(inner)

    def read(self, i: int) -> bytes:
        """Bytes of image ``i``.

        Raises:
            OSError: the image is gone or unreadable.
            DataError: the storage fails.
        """
        source, inner = self._find(i)
        return self._sources[source].read(inner)

    def read_many(self, indices: Sequence[int]) -> list[bytes | None]:
        """Bytes of several images, a request a source; None where one is gone or unreadable.

        Raises:
            DataError: the storage fails.
        """
        places = [self._find(i) for i in indices]
        results: list[bytes | None] = [None] * len(places)
        for source in dict.fromkeys(source for source, _ in places):
            slots = [slot for slot, place in enumerate(places) if place[0] == source]
            came = self._sources[source].read_many([places[slot][1] for slot in slots])
            for slot, data in zip(slots, came, strict=True):
                results[slot] = data
        return results

    def close(self) -> None:
        """Close what reads have opened; it reopens when needed."""
        for source in self._sources:
            source.close()

    def _find(self, i: int) -> tuple[int, int]:
        """Source of image ``i``, and its number there."""
        source = int(np.searchsorted(self._ends, i, side="right"))
        return source, i - (int(self._ends[source - 1]) if source else 0)


def _report_to_nobody(_: str) -> None:
    pass
