"""Which files a command reads, and where each result goes.

A result's name is its input's with a suffix added (``photo.jpg`` → ``photo.jpg.flowmo`` →
``photo.jpg.flowmo.png``), so no two inputs share a result and no original is ever written over.
"""

from collections.abc import Iterable, Sequence
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


def plan(
    inputs: Sequence[Path], *, suffixes: tuple[str, ...], added: str, out: Path | None
) -> list[Job]:
    """Jobs for files and folders.

    Folders are searched in depth for ``suffixes``; hidden files and earlier results are left out.
    With ``out`` their structure is kept below it.

    Args:
        inputs: files and folders.
        suffixes: that a folder is searched for, lower case.
        added: suffix of the results.
        out: folder for the results, or (with one input file) the result itself; next to each
            input by default.

    Raises:
        typer.BadParameter: two inputs would have the same result.
    """
    if out is not None and len(inputs) == 1 and _names_a_file(inputs[0], out):
        return [Job(inputs[0], out)]
    jobs: dict[Path, Job] = {}
    for given in inputs:
        found = _search(given, suffixes) if given.is_dir() else [given]
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
    return list(jobs.values())


def _names_a_file(given: Path, out: Path) -> bool:
    return not given.is_dir() and not out.is_dir() and bool(out.suffix)


def _search(folder: Path, suffixes: tuple[str, ...]) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_hidden = any(part.startswith(".") for part in parts)
        is_result = Path(path.stem).suffix == FILE_SUFFIX  # photo.jpg.flowmo.png
        if path.suffix.lower() in suffixes and not is_hidden and not is_result and path.is_file():
            yield path
