"""Images in folders, files and tars of this machine."""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowmo.training.data.sources.braces import expand_braces
from flowmo.training.data.sources.extents import Extents, Members
from flowmo.training.data.sources.index_cache import IndexCache
from flowmo.training.data.sources.range_file import Blocks
from flowmo.training.data.sources.source import Source
from flowmo.training.data.sources.suffixes import is_image, is_tar, unusable
from flowmo.training.data.sources.tar_headers import TarPart
from flowmo.training.data.sources.tar_index import index_tars
from flowmo.training.errors import DataError

# A page holds a header and its extensions; what lies between two costs nothing to skip.
_BLOCKS = Blocks(first=4096, largest=4096)


class LocalFiles(Source):
    """Reads files whole and tars at positions.

    Args:
        extents: where the images are.
    """

    def __init__(self, extents: Extents) -> None:
        self._extents = extents
        self._descriptors: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._extents)

    def name(self, i: int) -> str:
        """Container and name in it."""
        container, name = self._extents.container(i), self._extents.member(i)
        return f"{container}:{name}" if container else name

    def read(self, i: int) -> bytes:
        """Bytes of image ``i``.

        Raises:
            OSError: the file is gone or unreadable.
        """
        file, extent = self._extents.file(i), self._extents.range(i)
        if extent is None:
            return Path(file).read_bytes()
        descriptor = self._descriptors.get(file)
        if descriptor is None:
            opened = os.open(file, os.O_RDONLY)
            descriptor = self._descriptors.setdefault(file, opened)
            if descriptor != opened:  # another thread was quicker
                os.close(opened)
        # A positioned read, because forked workers share the descriptor's file offset.
        return os.pread(descriptor, extent[1] - extent[0], extent[0])

    def close(self) -> None:
        """Close the tars that reads have opened."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}


def find_local(
    paths: Sequence[str], *, cache: IndexCache, report: Callable[[str], None]
) -> LocalFiles:
    """The images of local paths.

    Args:
        paths: folders (searched recursively), image files, uncompressed tars, patterns of these.
        cache: The cache of indexes of tars.
        report: Is notified of what takes long.

    Raises:
        DataError: a path does not exist, or an archive cannot be read.
    """
    found = [path for text in paths for path in _expand(text)]
    indexed = index_tars(
        dict(_tar(path) for path in found if is_tar(path.name) and not path.is_dir()),
        fetch=_read_range,
        blocks=_BLOCKS,
        cache=cache,
        report=report,
    )
    return LocalFiles(Extents.join((str(path), _members(path, indexed)) for path in found))


def _members(path: Path, tars: Mapping[str, Members]) -> Members | None:
    if path.is_dir():
        files = (p.relative_to(path).as_posix() for p in path.rglob("*") if is_image(p.name))
        return Members.of_files(sorted(files))
    return tars.get(str(path))


def _expand(text: str) -> list[Path]:
    """A path, or the sorted matches of a pattern."""
    path = Path(text).expanduser()
    if path.exists():
        found = [path]
    else:
        found = []
        for choice in expand_braces(str(path)):
            matches = [choice] if Path(choice).exists() else glob.glob(choice, recursive=True)
            if not matches:
                which = "" if choice == str(path) else f" ({choice})"
                raise DataError(f"{text}{which} is no folder, image, tar or matching pattern")
            found += map(Path, sorted(matches))
    for path in found:
        if not (path.is_dir() or is_tar(path.name) or is_image(path.name)):
            raise DataError(unusable(str(path)))
    return found


def _tar(path: Path) -> tuple[TarPart, str]:
    status = path.stat()
    tar = TarPart(file=str(path), shown=str(path), size=status.st_size)
    return tar, f"{status.st_size} {status.st_mtime_ns}"


def _read_range(file: str, begin: int, end: int) -> bytes:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return os.pread(descriptor, end - begin, begin)
    finally:
        os.close(descriptor)
