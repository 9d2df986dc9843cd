"""Files and folders that appear whole or not at all, also when the process is killed.

Everything is written under another name beside its place, brought to disk, and renamed; a rename
within a folder happens or does not. Hidden names (``.NAME.new``, ``.NAME.old``) are leftovers of a
writer that was killed; the next writer of the same name clears them away.

    write_file          bytes; any number of processes may write the same file
    replacing_file      a file that one process at a time writes
    replacing_folder    a folder and all that is in it
    replacing_contents  some files of a folder that keeps its others
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_UNFINISHED = ".new"


def write_file(target: Path, data: bytes, *, flush_to_disk: bool = True) -> None:
    """Write a file; several processes that write the same one do not collide.

    Args:
        target: The file; its folder is made.
        data: The whole content.
        flush_to_disk: Whether the file must survive a loss of power as soon as this returns. A
            result that is easily made again need not wait for that.

    Raises:
        OSError: The file cannot be written; what was there is still there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if flush_to_disk:
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    if flush_to_disk:
        flush(target.parent)


@contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` that takes its place, flushed, when the block succeeds.

    One process at a time may write ``target``; its folder is made.

    Raises:
        OSError: The file cannot be written; what was there is still there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    flush(target.parent)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that takes ``target``'s place when the block succeeds.

    Raises:
        OSError: The folder cannot be written; what was there is still there.
    """
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish_folder(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_folder(temporary: Path, target: Path) -> None:
    """Flush a folder and give it its final name.

    If ``target`` exists it is moved aside first, so a reader sees the old folder, for an instant
    none, or the new one, never a mixture.

    Args:
        temporary: The folder, in the same place as ``target``, with all of its files closed.
        target: The final name.

    Raises:
        OSError: The folder cannot be flushed or renamed.
    """
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    flush_tree(temporary)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def replacing_contents(folder: Path, *, key: str, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder whose entries are moved to ``folder`` when the block succeeds.

    ``key`` is removed before anything else changes and comes back last: where it is, all of the
    new entries are, and nothing that is stale.

    Args:
        folder: What is filled; made if it does not exist. Its other entries stay.
        key: Name of the entry that says that the others are complete.
        stale: Patterns of earlier entries that are deleted.

    Raises:
        OSError: Something cannot be written; until everything new is on disk, nothing has changed.
    """
    temporary = folder / _UNFINISHED
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        flush_tree(temporary)
        (folder / key).unlink(missing_ok=True)
        flush(folder)
        for old in [path for pattern in stale for path in folder.glob(pattern)]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for new in temporary.iterdir():
            if new.name != key:
                # Renaming leaves a replaced file to those who have it mapped.
                new.rename(folder / new.name)
        flush(folder)
        (temporary / key).rename(folder / key)
        flush(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a folder so that none of its name is ever there in part.

    Raises:
        OSError: The folder does not exist, or cannot be deleted.
    """
    hidden = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def flush_tree(folder: Path) -> None:
    """See to it that a folder and everything in it are on disk."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def flush(path: Path) -> None:
    """See to it that a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
