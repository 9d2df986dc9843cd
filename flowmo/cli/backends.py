"""What computes for the command line: a model in this process, or a server.

Each call takes several files and yields one outcome a file as soon as it is done, a result or an
error, so that a bad file does not stop the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flowmo.client import Fit, ImageFormat, Sampling

Region = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        index: The index of the file among those that were given.
        bytes_read: The size of the file; 0 if it could not be read.
        result: The new file's content, or why there is none.
    """

    index: int
    bytes_read: int
    result: bytes | Exception


class Backend(Protocol):
    """Reads files and computes with them; outcomes are yielded in any order."""

    def tokenize(
        self, paths: Sequence[Path], *, fit: Fit, overlap: float | None
    ) -> Iterator[Outcome]:
        """Turn image files into containers."""
        ...

    def detokenize(
        self,
        paths: Sequence[Path],
        *,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
        region: Region | None,
    ) -> Iterator[Outcome]:
        """Turn containers into image files."""
        ...

    def reconstruct(
        self,
        paths: Sequence[Path],
        *,
        fit: Fit,
        overlap: float | None,
        sampling: Sampling,
        format: ImageFormat,
        quality: int,
    ) -> Iterator[Outcome]:
        """Turn image files into tokens and these into image files."""
        ...


def read_file(path: Path) -> bytes | OSError:
    """Read a whole file, or return why that failed."""
    try:
        return path.read_bytes()
    except OSError as error:
        return OSError(f"cannot be read: {error.strerror}")
