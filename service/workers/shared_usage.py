"""What API keys have used, counted together by all gateways of one machine.

A file that all of them map into memory has a row for each key: what is left of its rates, and the
requests that each gateway has inside for it. A lock on the file, which the system releases when its
holder dies, makes a change of a row one step. Times are the machine's monotonic clock, the same in
all processes.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowmo.service.http.keys import KeyEntry, KeysError, Usage, usage_id

_ID_BYTES = 16
_RATES = ("requests", "pictures", "steps")
_COUNT = struct.Struct("=Q")
_RATE = struct.Struct("=dd")
_INSIDE = struct.Struct("=I")
# Keys, as they are and as they were before a change of the file; 3 MB of a file with holes.
MAX_ROWS = 16_384


class UsageTable:
    """The file of one server, as one gateway has it open.

    Args:
        path: Of the file; the first to open it makes it.
        worker: The number of this gateway, from 0. What a predecessor of the same number had inside
            is forgotten.
        workers: The number of gateways, the same for all.
    """

    def __init__(self, path: Path, worker: int, workers: int) -> None:
        self._worker, self._workers = worker, workers
        self._row_bytes = _ID_BYTES + len(_RATES) * _RATE.size + workers * _INSIDE.size
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = _COUNT.size + MAX_ROWS * self._row_bytes
        with self.locked():
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
            self._memory = mmap.mmap(self._file, size)
            for row in range(self._count):
                _INSIDE.pack_into(self._memory, self._inside_at(row, worker), 0)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other gateways out while the block runs, which is short."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def usage(self, name: str, entry: KeyEntry) -> "SharedUsage":
        """What counts the use of a key.

        Args:
            name: The key's name.
            entry: Its limits; with others it is counted anew, as in one process.

        Raises:
            KeysError: There have been too many keys since the start.
        """
        return SharedUsage(entry, self, usage_id(name, entry))

    def load(self, row: int, usage: Usage) -> None:
        """Set what a key has used to what all gateways have counted; the lock is held."""
        for number, what in enumerate(_RATES):
            if (allowance := usage.allowances.get(what)) is not None:
                at = self._rate_at(row, number)
                allowance.level, allowance.at = _RATE.unpack_from(self._memory, at)
        usage.inside = sum(self._inside(row, worker) for worker in range(self._workers))

    def store(self, row: int, usage: Usage, entered: int) -> None:
        """Let the others know; the lock is held.

        Args:
            row: The key's row.
            usage: What it has used.
            entered: By how many the requests that this gateway has inside have become more.
        """
        for number, what in enumerate(_RATES):
            if (allowance := usage.allowances.get(what)) is not None:
                at = self._rate_at(row, number)
                _RATE.pack_into(self._memory, at, allowance.level, allowance.at)
        inside = max(0, self._inside(row, self._worker) + entered)
        _INSIDE.pack_into(self._memory, self._inside_at(row, self._worker), inside)

    def row_of(self, key: bytes, usage: Usage) -> int:
        """The row of a key, made of what it may use if it is new; the lock is held.

        Raises:
            KeysError: There is no room for another one.
        """
        count = self._count
        for row in range(count):
            at = self._at(row)
            if self._memory[at : at + _ID_BYTES] == key:
                return row
        if count == MAX_ROWS:
            raise KeysError(
                f"there have been {MAX_ROWS:,} keys and changes of keys since the start, which is "
                f"all that several workers can count; start the server again"
            )
        at = self._at(count)
        self._memory[at : at + _ID_BYTES] = key
        self.store(count, usage, 0)
        _COUNT.pack_into(self._memory, 0, count + 1)
        return count

    @property
    def _count(self) -> int:
        return int(_COUNT.unpack_from(self._memory, 0)[0])

    def _inside(self, row: int, worker: int) -> int:
        return int(_INSIDE.unpack_from(self._memory, self._inside_at(row, worker))[0])

    def _at(self, row: int) -> int:
        return _COUNT.size + row * self._row_bytes

    def _rate_at(self, row: int, number: int) -> int:
        return self._at(row) + _ID_BYTES + number * _RATE.size

    def _inside_at(self, row: int, worker: int) -> int:
        return self._rate_at(row, len(_RATES)) + worker * _INSIDE.size


class SharedUsage(Usage):
    """What one key has used at all gateways of this machine.

    Args:
        entry: The key's limits.
        table: The file in which it is counted.
        key: What its row is found by.

    Raises:
        KeysError: There is no room in the file.
    """

    def __init__(self, entry: KeyEntry, table: UsageTable, key: bytes) -> None:
        super().__init__(entry)
        self._table = table
        with table.locked():
            self._row = table.row_of(key, self)

    def take(self) -> None:
        """See :meth:`Usage.take`."""
        with self._counted():
            super().take()

    def leave(self) -> None:
        """See :meth:`Usage.leave`."""
        with self._counted():
            super().leave()

    def compute(self, *, pictures: int = 1, steps: int = 0) -> None:
        """See :meth:`Usage.compute`."""
        with self._counted():
            super().compute(pictures=pictures, steps=steps)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._table.locked():
            self._table.load(self._row, self)
            before = self.inside
            yield
            self._table.store(self._row, self, self.inside - before)
