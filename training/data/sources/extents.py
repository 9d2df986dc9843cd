"""Where the bytes of images lie in files."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flowmo.training.data.sources.names import PackedNames

WHOLE_FILE = -1
"""The offset of an image that is a file of its own."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Members:
    """The images of one container, by name.

    Attributes:
        names: relative to the container.
        offset: int64 [n], of the first byte in the container; or :data:`WHOLE_FILE`.
        size: int64 [n], in bytes; of no meaning for a whole file.
    """

    names: PackedNames
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    @classmethod
    def of_tar(cls, found: Mapping[str, tuple[int, int]]) -> Self:
        """Name to (offset, size), put into the order of the names."""
        names = sorted(found)
        places = np.asarray([found[name] for name in names], np.int64).reshape(-1, 2)
        return cls(names=PackedNames.pack(names), offset=places[:, 0], size=places[:, 1])

    @classmethod
    def of_files(cls, names: Iterable[str]) -> Self:
        """Files of a folder, in the order given."""
        packed = PackedNames.pack(names)
        whole = np.full(len(packed), WHOLE_FILE, np.int64)
        return cls(names=packed, offset=whole, size=np.zeros(len(packed), np.int64))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Extents:
    """The images of several containers, one after the other.

    Plain arrays: a million entries stay small and are shared with forked workers.

    Attributes:
        containers: tars, folders, or "" for files that are named by themselves.
        owner: int32 [n], the container of each image.
        members: name, offset and size of each image.
    """

    containers: tuple[str, ...]
    owner: NDArray[np.int32]
    members: Members

    @classmethod
    def join(cls, parts: Iterable[tuple[str, Members | None]]) -> Self:
        """Containers with their images, in the order given; None is an image by itself."""
        held: list[tuple[str, Members]] = []
        for alone, group in itertools.groupby(parts, key=lambda part: part[1] is None):
            if alone:
                held.append(("", Members.of_files(file for file, _ in group)))
            else:
                held += [(c, members) for c, members in group if members is not None]
        counts = [len(members.names) for _, members in held]
        none = np.empty(0, np.int64)
        return cls(
            containers=tuple(container for container, _ in held),
            owner=np.repeat(np.arange(len(held), dtype=np.int32), counts),
            members=Members(
                names=PackedNames.concatenate(members.names for _, members in held),
                offset=np.concatenate([none, *(members.offset for _, members in held)]),
                size=np.concatenate([none, *(members.size for _, members in held)]),
            ),
        )

    def __len__(self) -> int:
        return len(self.owner)

    def container(self, i: int) -> str:
        """Of image ``i``."""
        return self.containers[int(self.owner[i])]

    def member(self, i: int) -> str:
        """Name of image ``i`` within its container."""
        return self.members.names[i]

    def file(self, i: int) -> str:
        """The file that holds image ``i``."""
        container = self.container(i)
        if self.range(i) is not None:
            return container
        return f"{container}/{self.member(i)}" if container else self.member(i)

    def range(self, i: int) -> tuple[int, int] | None:
        """First byte and the byte after the last of image ``i``; None is the whole file."""
        offset = int(self.members.offset[i])
        return None if offset == WHOLE_FILE else (offset, offset + int(self.members.size[i]))
