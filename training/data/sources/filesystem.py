"""fsspec's filesystems, one a process.

Credentials, endpoints and the like are fsspec's own business: its configuration files and
environment variables (``FSSPEC_S3_ENDPOINT_URL``), and those of the libraries behind it.
"""

import gc
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flowmo.training.data.sources.retrying import retried, retried_many
from flowmo.training.data.sources.urls import scheme, shown
from flowmo.training.errors import DataError

THREADS = 16
"""Requests at the same time, of a filesystem that has no coroutines."""

_PACKAGES = {
    "s3": "flowmo-serve[s3]",
    "s3a": "flowmo-serve[s3]",
    "gs": "flowmo-serve[gcs]",
    "gcs": "flowmo-serve[gcs]",
    "http": "fsspec[http]",
    "https": "fsspec[http]",
}

Range = tuple[int, int] | None
"""First byte and the byte after the last; None is the whole file."""


class Filesystem:
    """The filesystem of a URL, and of all URLs with an equal :attr:`key`.

    Connections and event loops do not survive a fork, so every process opens its own when it first
    reads.

    Args:
        url: any URL of it.

    Raises:
        DataError: the protocol is unknown or its library missing.
    """

    def __init__(self, url: str) -> None:
        protocol = scheme(url)
        assert protocol is not None
        self._protocol = protocol
        self._class = _filesystem_class(url, protocol)
        self._options: dict[str, Any] = self._class._get_kwargs_from_urls(url)
        self._opened: tuple[int, Any] | None = None
        # What a worker inherits must not be collected there: closing a session would take its
        # sockets out of the event loop that the parent still runs (a fork shares the epoll).
        self._inherited: list[Any] = []

    @property
    def key(self) -> str:
        """Equal where one filesystem serves both: the protocol, and a host or user."""
        return f"{self._protocol} {sorted(self._options.items())}"

    def path(self, url: str) -> str:
        """The filesystem's own name of a URL."""
        return str(self._class._strip_protocol(url))

    def url(self, path: str) -> str:
        """The URL of such a name, as it may be shown."""
        return shown(path if scheme(path) else f"{self._protocol}://{path}")

    def open(self) -> Any:
        """fsspec's filesystem of this process."""
        if self._opened is None or self._opened[0] != os.getpid():
            if self._opened is not None:
                self._inherited.append(self._opened[1])
            # An own instance, so that closing it closes its connections.
            fresh = self._class(skip_instance_cache=True, **self._options)
            self._opened = (os.getpid(), fresh)
        return self._opened[1]

    def info(self, path: str) -> dict[str, Any]:
        """Size and whatever else is known of a file.

        Raises:
            DataError: there is no such file, or the storage fails.
        """
        found: dict[str, Any] = retried(lambda: self.open().info(path), what=self.url(path))
        return found

    def read(self, paths: Sequence[str], ranges: Sequence[Range]) -> list[bytes]:
        """Ranges of files, all at the same time.

        Raises:
            DataError: the storage fails, or does not read ranges.
        """

        def attempt(which: Sequence[int]) -> list[bytes | Exception]:
            came = self._read([paths[i] for i in which], [ranges[i] for i in which])
            return [
                _checked(data, ranges[i]) if isinstance(data, bytes) else data
                for i, data in zip(which, came, strict=True)
            ]

        if not paths:
            return []
        return retried_many(attempt, len(paths), what=lambda i: self.url(paths[i]))

    def _read(self, paths: list[str], ranges: Sequence[Range]) -> list[bytes | Exception]:
        filesystem = self.open()
        begins = [None if extent is None else extent[0] for extent in ranges]
        ends = [None if extent is None else extent[1] for extent in ranges]
        if filesystem.async_impl or len(paths) == 1:
            return list(filesystem.cat_ranges(paths, begins, ends, on_error="return"))

        def one(path: str, begin: int | None, end: int | None) -> bytes | Exception:
            outcome: bytes | Exception = filesystem.cat_ranges([path], [begin], [end])[0]
            return outcome

        with ThreadPoolExecutor(min(THREADS, len(paths))) as pool:
            return list(pool.map(one, paths, begins, ends))

    def close(self) -> None:
        """Close the connections of this process."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened = None
            # An instance refers to itself and closes its session when it is collected, which must
            # not wait until a worker's collector finds its copy of it.
            gc.collect()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_inherited": []}


def _filesystem_class(url: str, protocol: str) -> Any:
    try:
        import fsspec

        return fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = _PACKAGES.get(protocol, "flowmo-serve[train]")
        raise DataError(
            f"{shown(url)} needs a library that is not installed: pip install '{package}' ({error})"
        ) from error
    except ValueError as error:
        raise DataError(f"{shown(url)}: {error}") from error


def _checked(data: bytes, extent: Range) -> bytes | Exception:
    if extent is None or len(data) == extent[1] - extent[0]:
        return data
    return OSError(
        f"got {len(data)} bytes for the {extent[1] - extent[0]} from byte {extent[0]}; the storage "
        "must answer range requests, and the file must stay what it was"
    )
