"""Indexes of tars on disk, so that a tar's headers are read once and not at every start."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flowmo.model.files import write_file
from flowmo.training.data.sources.extents import Members
from flowmo.training.data.sources.names import PackedNames

_VERSION = "1"


class IndexCache:
    """A file of arrays for each tar, replaced when the tar is another.

    Args:
        folder: where the files lie; made when needed. None keeps nothing.
        report: Is notified when the folder cannot be written, which costs time and stops nothing.
    """

    def __init__(self, folder: str | None, *, report: Callable[[str], None]) -> None:
        self.folder = Path(folder).expanduser() if folder else None
        self._report = report
        self._reported = False

    def load(self, tar: str, version: str | None) -> Members | None:
        """The index of a tar, if it is known.

        Args:
            tar: path or URL.
            version: What distinguishes this content from another (size and entity tag, say); None
                where nothing does: such an index is not kept.
        """
        if self.folder is None or version is None:
            return None
        try:
            with self._path(tar).open("rb") as file, np.load(file, allow_pickle=False) as held:
                if str(held["version"]) != f"{_VERSION} {version}":
                    return None
                names = PackedNames(held["text"], held["ends"])
                return Members(names=names, offset=held["offset"], size=held["size"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None  # none yet, or cut short: it is made anew

    def save(self, tar: str, version: str | None, members: Members) -> None:
        """Keep an index."""
        if self.folder is None or version is None:
            return
        path = self._path(tar)
        content = io.BytesIO()
        np.savez(
            content,
            version=np.array(f"{_VERSION} {version}"),
            text=members.names.text,
            ends=members.names.ends,
            offset=members.offset,
            size=members.size,
        )
        try:
            # Several processes of a run may write the same file at the same time.
            write_file(path, content.getvalue(), flush_to_disk=False)
        except OSError as error:
            if not self._reported:
                self._report(
                    f"indexes of tars cannot be kept in {self.folder} ({error}); every start "
                    "reads them anew: set data.index_cache to a folder that can be written"
                )
            self._reported = True

    def _path(self, tar: str) -> Path:
        assert self.folder is not None
        return self.folder / (hashlib.sha256(tar.encode()).hexdigest()[:32] + ".npz")
