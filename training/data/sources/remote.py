"""Images in folders, files and tars at URLs, through fsspec."""

from collections.abc import Sequence

from flowmo.training.data.sources.extents import Extents
from flowmo.training.data.sources.filesystem import Filesystem
from flowmo.training.data.sources.source import Source


class RemoteFiles(Source):
    """Reads the ranges of a whole batch at the same time, so that their latencies overlap.

    A file that is gone is an error as of storage that fails, not an unreadable image: a data set
    at a URL that changes under a run is no longer the one that its positions mean.

    Args:
        extents: where the images are; containers are names of the filesystem.
        filesystem: that holds them.
    """

    def __init__(self, extents: Extents, filesystem: Filesystem) -> None:
        self._extents = extents
        self._filesystem = filesystem

    def __len__(self) -> int:
        return len(self._extents)

    def name(self, i: int) -> str:
        """URL, and name within it."""
        if self._extents.range(i) is None:
            return self._filesystem.url(self._extents.file(i))
        return f"{self._filesystem.url(self._extents.container(i))}:{self._extents.member(i)}"

    def read(self, i: int) -> bytes:
        """Bytes of image ``i``.

        Raises:
            DataError: the storage fails.
        """
        return self._read([i])[0]

    def read_many(self, indices: Sequence[int]) -> list[bytes | None]:
        """Bytes of several images, in the order of ``indices``.

        Raises:
            DataError: the storage fails.
        """
        return list(self._read(indices))

    def _read(self, indices: Sequence[int]) -> list[bytes]:
        return self._filesystem.read(
            [self._extents.file(i) for i in indices], [self._extents.range(i) for i in indices]
        )

    def close(self) -> None:
        """Close the connections of this process."""
        self._filesystem.close()
