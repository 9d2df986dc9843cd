"""Crops as tar files of bounded size, in the layout of WebDataset."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flowmo.model.errors import ConfigError

_BLOCK = 512
_RECORD = 20 * _BLOCK  # tar files are padded to a whole number of records


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A tar that was written."""

    name: str
    crops: int
    size: int
    sha256: str


def write_parts(images: Iterable[bytes], folder: Path, *, most_bytes: int) -> list[Part]:
    """Write ``000000.webp``, ``000001.webp`` ... to ``part-000.tar``, ``part-001.tar`` ...

    The bytes of the tars depend on the images alone: no times, no owners.

    Args:
        images: encoded files, in order.
        folder: exists.
        most_bytes: no tar is larger.

    Raises:
        ConfigError: one image alone would make a larger tar.
    """
    parts: list[Part] = []
    pending: list[tuple[str, bytes]] = []
    blocks = 0
    for i, data in enumerate(images):
        needed = 1 + -(-len(data) // _BLOCK)  # a header, and the contents padded to whole blocks
        if _tar_bytes(needed) > most_bytes:
            raise ConfigError(
                f"a tar of at most {most_bytes} bytes cannot hold an image of {len(data)} bytes; "
                "allow larger parts"
            )
        if _tar_bytes(blocks + needed) > most_bytes:
            parts.append(_write(pending, folder, len(parts)))
            pending, blocks = [], 0
        pending.append((f"{i:06d}.webp", data))
        blocks += needed
    if pending:
        parts.append(_write(pending, folder, len(parts)))
    return parts


def _tar_bytes(blocks: int) -> int:
    """Size of a tar with that many blocks of entries: two empty ones end it."""
    return -(-(blocks + 2) * _BLOCK // _RECORD) * _RECORD


def _write(entries: list[tuple[str, bytes]], folder: Path, number: int) -> Part:
    path = folder / f"part-{number:03d}.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    content = path.read_bytes()
    return Part(
        name=path.name,
        crops=len(entries),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
