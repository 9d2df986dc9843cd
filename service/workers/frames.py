"""Messages on a local socket: a JSON object, and arrays beside it as they lie in memory.

    length of the JSON (4 bytes, big-endian) | JSON | part | part | ...

The JSON's ``parts`` says how many bytes each part has. Nothing is ever unpickled.
"""

import asyncio
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct(">I")
# What is read ahead: a picture of 256 x 256 in one piece, not in four.
_READ_AHEAD = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Attributes:
        head: JSON-safe values.
        parts: What is too large for JSON.
    """

    head: dict[str, Any]
    parts: tuple[bytes, ...] = ()


class Streams:
    """One end of a connection between two processes of this machine.

    Args:
        reader: Gives what the other side has sent.
        writer: Sends to the other side.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Connect to a socket.

        Raises:
            OSError: Nobody listens there.
        """
        return cls(*await asyncio.open_unix_connection(path, limit=_READ_AHEAD))

    async def read(self) -> Frame | None:
        """The next message; None when the other side has ended between two of them.

        Raises:
            ConnectionError: The other side has ended in the middle of one.
        """
        try:
            prefix = await self._reader.readexactly(_LENGTH.size)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise ConnectionResetError("the other process ended within a message") from None
            return None
        try:
            head = json.loads(await self._reader.readexactly(_LENGTH.unpack(prefix)[0]))
            parts = [await self._reader.readexactly(size) for size in head.pop("parts", ())]
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the other process ended within a message") from None
        return Frame(head, tuple(parts))

    def send(self, head: dict[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> None:
        """Send a message; :meth:`drain` waits until the other side has taken most of it.

        Args:
            head: JSON-safe values.
            arrays: Its parts, in any memory order.
        """
        if arrays:
            head = {**head, "parts": [array.nbytes for array in arrays]}
        text = json.dumps(head).encode()
        self._writer.write(_LENGTH.pack(len(text)) + text)
        for array in arrays:
            self._writer.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    async def drain(self) -> None:
        """Wait until the other side has taken most of what was sent.

        Raises:
            ConnectionError: The other side has ended.
        """
        await self._writer.drain()

    def abort(self) -> None:
        """End the connection at once; the other side sees that nobody waits any more."""
        self._writer.transport.abort()


async def listen(path: Path, serve: Any) -> asyncio.Server:
    """Listen on a socket, for processes of the same user.

    Args:
        path: Of the socket, in a folder that only this user may enter.
        serve: A coroutine function that gets the :class:`Streams` of each connection.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams = Streams(reader, writer)
        try:
            await serve(streams)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the other side has died and waits for nothing, or this process ends
        finally:
            streams.abort()

    _remove(path)  # of a predecessor that was killed
    return await asyncio.start_unix_server(connected, path, limit=_READ_AHEAD)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
