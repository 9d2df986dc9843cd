"""A random-access index of image files in folders and tar archives.

Entries are ordered by (order of the given paths, name), so a folder and a tar of that folder give
the same images in the same order. Reading an image of a tar is one positioned read: the headers
are walked once, when the index is built.
"""

import glob
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
TAR_SUFFIX = ".tar"


class ImageIndex:
    """Where each image's bytes are.

    Args:
        paths: folders (searched recursively), image files, uncompressed tars, or glob patterns.

    Raises:
        DataError: a path does not exist, an archive cannot be read, or there is no image.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._containers: list[str] = []
        self._names: list[str] = []
        # Plain arrays: a million entries stay small and are shared with forked workers.
        owner: list[int] = []
        offset: list[int] = []
        size: list[int] = []
        for container in _expand(paths):
            entries = _tar_entries(container) if _is_tar(container) else _files(container)
            for name, start, length in entries:
                self._names.append(name)
                owner.append(len(self._containers))
                offset.append(start)
                size.append(length)
            self._containers.append(str(container))
        if not self._names:
            raise DataError(
                f"no images in {', '.join(map(str, paths)) or 'the (empty) list of paths'}; "
                f"looked for files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        self._owner = np.asarray(owner, dtype=np.int32)
        self._offset = np.asarray(offset, dtype=np.int64)
        self._size = np.asarray(size, dtype=np.int64)
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        """Container and name of image ``i``, for messages."""
        return f"{self._containers[self._owner[i]]}:{self._names[i]}"

    def read(self, i: int) -> bytes:
        """Bytes of image ``i``.

        Raises:
            OSError: the file is gone or unreadable.
        """
        owner = int(self._owner[i])
        if self._offset[i] < 0:
            return Path(self._containers[owner], self._names[i]).read_bytes()
        if owner not in self._descriptors:
            self._descriptors[owner] = os.open(self._containers[owner], os.O_RDONLY)
        # A positioned read, because forked workers share the descriptor's file offset.
        return os.pread(self._descriptors[owner], int(self._size[i]), int(self._offset[i]))

    def close(self) -> None:
        """Close the archives that reads have opened; they reopen when needed."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}


def _is_tar(path: Path) -> bool:
    return path.suffix.lower() == TAR_SUFFIX


def _expand(paths: Sequence[str]) -> list[Path]:
    """Folders, files and the sorted matches of glob patterns, in the order given."""
    found: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        if path.exists():
            found.append(path)
            continue
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise DataError(f"{text} is no folder, image, tar or matching pattern")
        found += map(Path, matches)
    for path in found:
        if not path.is_dir() and not _is_tar(path) and path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(
                f"{path} is not a folder, an image ({', '.join(sorted(IMAGE_SUFFIXES))}) or an "
                f"uncompressed {TAR_SUFFIX} (a compressed archive has no random access: unpack it)"
            )
    return found


def _files(path: Path) -> Iterable[tuple[str, int, int]]:
    """(name relative to the folder, -1, 0) of images; offset -1 says "the file itself"."""
    if not path.is_dir():
        return [("", -1, 0)]
    files = (p.relative_to(path) for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return [(name, -1, 0) for name in sorted(f.as_posix() for f in files)]


def _tar_entries(path: Path) -> Iterable[tuple[str, int, int]]:
    try:
        with tarfile.open(path, mode="r:") as archive:
            members = {
                # A name that occurs twice means its last member, as when extracting.
                member.name.removeprefix("./"): (member.offset_data, member.size)
                for member in archive
                if member.isreg()
                and not member.issparse()
                and Path(member.name).suffix.lower() in IMAGE_SUFFIXES
            }
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} cannot be read as an uncompressed tar: {error}") from error
    return [(name, start, size) for name, (start, size) in sorted(members.items())]
