"""What every place that images come from can do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Source(ABC):
    """Images by number, in an order that never changes.

    A source can be pickled and forked at any time: whatever a process may not share (descriptors,
    sessions, event loops) is opened when it is first needed there, and left out of the pickle.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str:
        """Where image ``i`` is, for messages; without passwords and signatures of URLs."""

    @abstractmethod
    def read(self, i: int) -> bytes:
        """The encoded bytes of image ``i``.

        Raises:
            OSError: this image is gone or unreadable.
            DataError: the storage fails, so that no image may be read.
        """

    def read_many(self, indices: Sequence[int]) -> list[bytes | None]:
        """The bytes of several images, at the same time where that is quicker.

        Returns:
            In the order of ``indices``; None where the image is gone or unreadable.

        Raises:
            DataError: the storage fails, so that no image may be read.
        """
        return [self._read_or_none(i) for i in indices]

    @abstractmethod
    def close(self) -> None:
        """Let go of what reads have opened; it reopens when needed."""

    def _read_or_none(self, i: int) -> bytes | None:
        try:
            return self.read(i)
        except OSError:
            return None
