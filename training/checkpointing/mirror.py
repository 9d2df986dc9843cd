"""Copies of a run's checkpoints and models in a bucket, or wherever fsspec writes to.

    URL/checkpoints/step_000001500/...       the folder's files, then
    URL/checkpoints/step_000001500.complete  which alone says that the copy is whole
    URL/export/..., URL/best/...             the exported models

Object stores have no rename, hence the mark. Credentials and options are fsspec's own: its
environment variables and configuration files.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.files import replacing_folder
from flowmo.training.checkpointing.checkpoint import checkpoint_step
from flowmo.training.libraries import library

_MARK = ".complete"


class Mirror:
    """The copies under a URL.

    Args:
        url: A URL of fsspec, such as ``s3://bucket/run``.

    Raises:
        ConfigError: its file system is not known or not installed.
        LibraryError: fsspec is not installed.
    """

    def __init__(self, url: str) -> None:
        fsspec = library("fsspec")
        self.url = url.rstrip("/")
        try:
            self._files: Any = fsspec.core.url_to_fs(url)[0]
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"checkpoint_mirror = {url!r} cannot be used: {error}. s3:// needs "
                f"pip install 'flowmo-serve[s3]', gs:// 'flowmo-serve[gcs]'"
            ) from error

    def steps(self) -> list[int]:
        """Steps of the complete copies, ascending.

        Raises:
            CheckpointError: the store fails.
        """
        folder = f"{self.url}/checkpoints"
        try:
            self._files.invalidate_cache()
            found = self._files.ls(folder, detail=False) if self._files.exists(folder) else []
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be listed: {error}") from error
        names = [Path(name).name for name in found]
        return sorted(
            checkpoint_step(Path(name.removesuffix(_MARK)))
            for name in names
            if name.endswith(_MARK)
        )

    def put_checkpoint(self, folder: Path, keep: Iterable[int]) -> None:
        """Copy a complete checkpoint, and delete the copies that are not to be kept.

        Args:
            folder: The folder of the checkpoint.
            keep: steps that stay, this one's among them.

        Raises:
            OSError: the store fails.
        """
        target = f"{self.url}/checkpoints/{folder.name}"
        self._delete(f"{target}{_MARK}")
        self._delete(target)
        self._put(folder, target)
        self._files.pipe_file(f"{target}{_MARK}", b"")
        kept = set(keep)
        for step in self.steps():
            if step not in kept:
                old = f"{self.url}/checkpoints/step_{step:09d}"
                self._delete(f"{old}{_MARK}")  # first, so that no half-deleted copy counts
                self._delete(old)

    def put_model(self, folder: Path) -> None:
        """Copy an exported model folder, ``config.json`` last: with it the folder is whole.

        Raises:
            OSError: the store fails.
        """
        target = f"{self.url}/{folder.name}"
        self._delete(f"{target}/config.json")
        self._put(folder, target, last="config.json")

    def fetch_latest(self, run: Path) -> None:
        """Bring the newest complete copy into a run's folder, if there is one.

        Raises:
            CheckpointError: the store fails.
        """
        steps = self.steps()
        if not steps:
            return
        name = f"step_{steps[-1]:09d}"
        source, target = f"{self.url}/checkpoints/{name}", run / "checkpoints" / name
        try:
            with replacing_folder(target) as folder:
                for file in self._files.ls(source, detail=False):
                    with (
                        self._files.open(file, "rb") as theirs,
                        (folder / Path(file).name).open("wb") as ours,
                    ):
                        shutil.copyfileobj(theirs, ours, 2**24)
        except OSError as error:
            raise CheckpointError(f"{source} cannot be read: {error}") from error

    def _put(self, folder: Path, target: str, *, last: str = "") -> None:
        self._files.makedirs(target, exist_ok=True)
        files = sorted(folder.iterdir(), key=lambda path: (path.name == last, path.name))
        for path in files:
            self._files.put_file(str(path), f"{target}/{path.name}")

    def _delete(self, path: str) -> None:
        if self._files.exists(path):
            self._files.rm(path, recursive=True)
