"""Tensors in memory that a client on this machine shares: the system shared-memory extension.

A region is read and written like a file and never mapped: a client that shortens it meanwhile gets
an error, where a mapped page would end the server.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flowmo.service.errors import TensorError

FOLDER = Path("/dev/shm")  # noqa: S108  (POSIX shared memory, where Linux has it)
MAX_REGIONS = 256
_KEY = re.compile(r"/?[A-Za-z0-9_.-]{1,250}")
REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A part of a shared-memory object.

    Attributes:
        name: The name that the client gave it.
        key: The name of the object.
        offset: Where the region begins in the object, in bytes.
        byte_size: How long it is.
    """

    name: str
    key: str
    offset: int
    byte_size: int


class Regions:
    """The regions that clients have registered; each API key has its own.

    Args:
        enabled: Whether the operator allows them.
        max_bytes: The most bytes of one tensor that is read.
    """

    def __init__(self, *, enabled: bool, max_bytes: int) -> None:
        self.enabled, self._max_bytes = enabled, max_bytes
        self._regions: dict[tuple[str | None, str], Region] = {}

    def register(self, owner: str | None, region: Region) -> None:
        """Register a region, in the place of none.

        Raises:
            TensorError: There may be no regions, or not such a one.
        """
        if not self.enabled:
            raise TensorError("shared memory is off; the operator allows it with --shared-memory")
        if len(self._regions) >= MAX_REGIONS:
            raise TensorError(f"there are {MAX_REGIONS} regions already; unregister some")
        if (owner, region.name) in self._regions:
            raise TensorError(f"the region {region.name[:64]!r} is registered already")
        if not _KEY.fullmatch(region.key) or region.key.strip("/") in {".", ".."}:
            raise TensorError("key must be the name of a POSIX shared-memory object, e.g. /input")
        if region.offset < 0 or region.byte_size < 1:
            raise TensorError("offset must be at least 0 and byte_size at least 1")
        os.close(_opened(region))
        self._regions[owner, region.name] = region

    def unregister(self, owner: str | None, name: str | None = None) -> None:
        """Forget a region, or all of an owner's; one that is not there is no error."""
        names = [key for key in self._regions if key[0] == owner and name in {None, key[1]}]
        for key in names:
            del self._regions[key]

    def of(self, owner: str | None, name: str | None = None) -> list[Region]:
        """All regions of an owner, or the one of a name.

        Raises:
            TensorError: There is none of this name.
        """
        if name is not None:
            return [self._named(owner, name)]
        return [region for (key, _), region in self._regions.items() if key == owner]

    def read(self, owner: str | None, where: Mapping[str, object]) -> bytes:
        """The bytes of a tensor.

        Args:
            owner: The API key's name.
            where: The tensor's parameters, which name the region, the size and the offset in it.

        Raises:
            TensorError: There is no such region, or it is shorter.
        """
        region, begin, size = self._place(owner, where)
        if size > self._max_bytes:
            raise TensorError(f"{size:,} bytes are more than the {self._max_bytes:,} of a body")
        file = _opened(region)
        try:
            data = os.pread(file, size, begin)
        finally:
            os.close(file)
        if len(data) != size:
            raise TensorError(f"the region {region.name!r} has become shorter meanwhile")
        return data

    def write(self, owner: str | None, where: Mapping[str, object], data: bytes) -> None:
        """Put a tensor's bytes into a region; arguments as of :meth:`read`.

        Raises:
            TensorError: There is no such region, or the tensor does not fit.
        """
        region, begin, size = self._place(owner, where)
        if len(data) > size:
            raise TensorError(
                f"{len(data)} bytes do not fit into the {size} of the region {region.name!r}"
            )
        file = _opened(region)
        try:
            os.pwrite(file, data, begin)
        finally:
            os.close(file)

    def _named(self, owner: str | None, name: str) -> Region:
        try:
            return self._regions[owner, name]
        except KeyError:
            raise TensorError(
                f"there is no region {name[:64]!r}; register it before it is used"
            ) from None

    def _place(self, owner: str | None, where: Mapping[str, object]) -> tuple[Region, int, int]:
        region = self._named(owner, str(where.get(REGION)))
        offset, size = where.get(OFFSET, 0), where.get(SIZE)
        if not (type(offset) is int and type(size) is int and offset >= 0 and size >= 0):
            raise TensorError(f"{SIZE} and {OFFSET} must be whole numbers of at least 0")
        if offset + size > region.byte_size:
            raise TensorError(
                f"{size} bytes at {offset} are beyond the region {region.name!r}, which has "
                f"{region.byte_size}"
            )
        return region, region.offset + offset, size


def _opened(region: Region) -> int:
    path = FOLDER / region.key.removeprefix("/")
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TensorError(f"{region.key!r} cannot be opened: {error.strerror}") from None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_size < region.offset + region.byte_size:
        os.close(file)
        raise TensorError(
            f"{region.key!r} has {found.st_size} bytes, the region needs "
            f"{region.offset + region.byte_size}"
        )
    return file
