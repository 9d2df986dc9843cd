"""Which files a command reads, and where each result goes.

A result's name is its input's with a suffix added (``photo.jpg`` → ``photo.jpg.flowmo`` →
``photo.jpg.flowmo.png``), so no two inputs share a result and no original is ever written over.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from flowmo.imaging.formats import SUFFIXES
from flowmo.model.container import FILE_SUFFIX

# A file that the user names is tried whatever its suffix.
IMAGE_SUFFIXES = SUFFIXES
CONTAINER_SUFFIXES = (FILE_SUFFIX,)


@dataclass(frozen=True, slots=True)
class Job:
    """One file to read and the one to write."""

    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in a folder that is not worked on, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is worked on, and what was found beside it."""

    jobs: list[Job]
    left_out: list[LeftOut]


def plan(
    inputs: Sequence[Path], *, suffixes: tuple[str, ...], added: str, out: Path | None
) -> Plan:
    """Plan the work on files and folders.

    Folders are searched in depth for ``suffixes``; what else is in them is left out and named,
    except for what this command line wrote earlier. With ``out`` their structure is kept below it.

    Args:
        inputs: Files and folders. A file is tried whatever its suffix.
        suffixes: Suffixes, in lower case, that a folder is searched for.
        added: The suffix of the results.
        out: The folder for the results, or (with one input file) the result itself; next to each
            input by default.

    Raises:
        typer.BadParameter: Two inputs would have the same result.
    """
    if out is not None and len(inputs) == 1 and _names_a_file(inputs[0], out):
        return Plan([Job(inputs[0], out)], [])
    jobs: dict[Path, Job] = {}
    left_out: list[LeftOut] = []
    for given in inputs:
        found = _search(given, suffixes, left_out) if given.is_dir() else [given]
        base = given if given.is_dir() else given.parent
        for source in found:
            folder = source.parent if out is None else out / source.parent.relative_to(base)
            job = Job(source, folder / f"{source.name}{added}")
            other = jobs.setdefault(job.target, job)
            if other.source.resolve() != source.resolve():
                raise typer.BadParameter(
                    f"{other.source} and {source} would both become {job.target}; "
                    f"run them with different --out"
                )
    return Plan(list(jobs.values()), left_out)


def _names_a_file(given: Path, out: Path) -> bool:
    return not given.is_dir() and not out.is_dir() and bool(out.suffix)


def _search(folder: Path, suffixes: tuple[str, ...], left_out: list[LeftOut]) -> Iterator[Path]:
    """Files with the suffixes, in order; what is not one is added to ``left_out``."""

    def unreadable(error: OSError) -> None:
        left_out.append(LeftOut(Path(str(error.filename)), f"unreadable: {error.strerror}"))

    for name, folders, files in os.walk(folder, onerror=unreadable):
        here = Path(name)
        for entry in sorted(folders):
            if reason := _folder_reason(here / entry):
                left_out.append(LeftOut(here / entry, reason))
                folders.remove(entry)
        folders.sort()  # os.walk visits them in the order of this list
        for entry in sorted(files):
            path = here / entry
            if reason := _file_reason(path, suffixes):
                left_out.append(LeftOut(path, reason))
            elif not _is_ours(path, suffixes):
                yield path


def _folder_reason(path: Path) -> str:
    """Why a folder is not searched; empty if it is."""
    if path.name.startswith("."):
        return "hidden"
    try:
        return "link to a folder" if path.is_symlink() else ""
    except OSError:  # searching it says why
        return ""


def _file_reason(path: Path, suffixes: tuple[str, ...]) -> str:
    """Why a file is not worked on; empty if it is, or was written by this command line."""
    if path.name.startswith("."):
        return "hidden"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "broken link"
    except OSError as error:
        return f"unreadable: {error.strerror}"
    if not stat.S_ISREG(mode):
        return "no regular file"
    if path.suffix.lower() in suffixes or _is_ours(path, suffixes):
        return ""
    return "not a .flowmo file" if suffixes == CONTAINER_SUFFIXES else "unsupported format"


def _is_ours(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether an earlier run wrote it: photo.jpg.flowmo.png, or tokens beside pictures."""
    is_container = path.suffix == FILE_SUFFIX and FILE_SUFFIX not in suffixes
    return is_container or Path(path.stem).suffix == FILE_SUFFIX


def shown(path: Path) -> str:
    """A path for one line of text: whatever a terminal would act on, or not print, is escaped."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
