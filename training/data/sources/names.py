"""Many strings in two arrays."""

from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray


class PackedNames:
    """Strings by number, as UTF-8 in one array.

    A million Python strings are a million objects, and a forked worker that counts a reference to
    one copies its page. Two arrays stay shared, are a third of the size, and can be saved as they
    are.

    Args:
        text: uint8, all strings one after the other.
        ends: int64 [n], where each ends.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text = text
        self.ends = ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> Self:
        """From strings; a file's name that is no UTF-8 comes back as Python gave it."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum(lengths))

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """All strings of all parts."""
        parts = list(parts)
        begins = np.cumsum([0, *(part.text.size for part in parts)])
        ends = [part.ends + begin for part, begin in zip(parts, begins, strict=False)]
        empty = (np.empty(0, np.uint8), np.empty(0, np.int64))
        return cls(
            np.concatenate([empty[0], *(part.text for part in parts)]),
            np.concatenate([empty[1], *ends]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        begin = int(self.ends[i - 1]) if i else 0
        return self.text[begin : int(self.ends[i])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
