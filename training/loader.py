"""torch's loader, with two things that its users would miss."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import DataLoader

from training.errors import DataError


class _Closes(Protocol):
    def close(self) -> None: ...


class BatchLoader(DataLoader[Any]):
    """Forks from a process without open connections, and tells a worker's DataError as its own.

    torch gives errors of workers the traceback there for a message, of which the last line is for
    the user.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        dataset: _Closes = self.dataset  # type: ignore[assignment]
        if self.num_workers:
            dataset.close()
        return _plainly(super().__iter__())


def _plainly(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except DataError as error:
        name = f"{DataError.__module__}.{DataError.__qualname__}: "
        _, found, message = str(error).rpartition(name)
        if not found:
            raise
        raise DataError(message.strip()) from error
