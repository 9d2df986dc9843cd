"""A part of a file, read by ranges, as a file of its own."""

import io
from collections.abc import Callable
from dataclasses import dataclass

Fetch = Callable[[str, int, int], bytes]
"""(file, first byte, byte after the last) to exactly those bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """How much a range reads, in bytes.

    Attributes:
        first: after a jump.
        largest: reads that follow each other double up to this. A jump of at most as much counts
            as following: what lies between would have cost less than asking again.
    """

    first: int
    largest: int


class RangeFile(io.RawIOBase):
    """Seekable and read-only; ``read(n)`` gives n bytes unless the part ends.

    Args:
        file: what ``fetch`` reads from.
        start: first byte of the part.
        size: bytes of the part.
        fetch: reads a range of the file.
        blocks: sizes of the ranges.
    """

    def __init__(self, file: str, start: int, size: int, *, fetch: Fetch, blocks: Blocks) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._size = size
        self._fetch = fetch
        self._blocks = blocks
        self._block = blocks.first
        self._position = 0
        self._held = b""
        self._held_at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes from the start of the part."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is read yet."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, or as much of it as there is."""
        done, wanted = 0, min(len(buffer), self._size - self._position)
        while done < wanted:
            if not self._held_at <= self._position < self._held_at + len(self._held):
                self._load()
            begin = self._position - self._held_at
            piece = self._held[begin : begin + wanted - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)
            self._position += len(piece)
        return max(done, 0)

    def _load(self) -> None:
        gap = self._position - (self._held_at + len(self._held))
        follows = bool(self._held) and 0 <= gap <= self._blocks.largest
        self._block = min(2 * self._block, self._blocks.largest) if follows else self._blocks.first
        begin = self._start + self._position
        end = min(begin + self._block, self._start + self._size)
        self._held, self._held_at = self._fetch(self._file, begin, end), self._position
        if not self._held:
            raise OSError(f"{self._file} ends before byte {end}")
