"""torch's loader, with three things that its users would miss."""

from collections.abc import Generator
from typing import Any, Protocol

from torch.utils.data import DataLoader

from flowmo.training.errors import DataError


class _Closes(Protocol):
    def close(self) -> None: ...


class BatchLoader(DataLoader[Any]):
    """Forks from a process without open connections, and raises a worker's DataError as its own.

    The iterator is a generator; closing it ends the workers. torch gives errors of workers the
    traceback there for a message, of which the last line is for the user.
    """

    def __iter__(self) -> Generator[Any]:  # type: ignore[override]
        dataset: _Closes = self.dataset  # type: ignore[assignment]
        if self.num_workers:
            dataset.close()
        iterator = super().__iter__()
        try:
            yield from iterator
        except DataError as error:
            _, found, message = str(error).rpartition(f"{DataError.__qualname__}: ")
            if not found:
                raise
            raise DataError(message.strip()) from error
        finally:
            # Workers of the trainer ignore SIGTERM, so a process that ends with an error would wait
            # for them for ever. An iterator without workers has nothing to end.
            end = getattr(iterator, "_shutdown_workers", None)
            if end is not None:
                end()
