"""What a connection may hold before its request is known, and how long it may take to be answered.

uvicorn bounds neither: headers of any size, a byte at a time, and an answer that nobody reads. None
of that reaches the application, so it is done in the protocol that reads the connection.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flowmo.service.http.reading_turns import FlowInTurns, ReadingTurns

logger = logging.getLogger(__name__)

MAX_HEADER_FIELDS = 100
# What is parsed at once: of what follows the end of a request in it, the size is not seen.
_PIECE_BYTES = 16 * 1024
# What a client may take on top of ``send_seconds`` for an answer of many megabytes.
_SLOWEST_BYTES_PER_SECOND = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionLimits:
    """What the connections of one server may hold and how long they may take.

    Attributes:
        header_bytes: The most bytes of one request's line and headers.
        pending_bytes: The most bytes of all requests' headers that are not complete.
        header_seconds: The longest time from a request's first byte, or from the connection's
            start, to the end of its headers.
        send_seconds: The longest time that a client may leave an answer unread.
    """

    header_bytes: int
    header_seconds: float
    send_seconds: float
    pending_bytes: int = 16 * 1024 * 1024


@dataclass(slots=True)
class _Pending:
    """The bytes of unfinished headers, by connection."""

    limits: ConnectionLimits
    sizes: "dict[_LimitedProtocol, int]" = field(default_factory=dict)
    total: int = 0

    def set(self, connection: "_LimitedProtocol", size: int) -> None:
        self.total += size - self.sizes.pop(connection, 0)
        if size:
            self.sizes[connection] = size
        while self.total > self.limits.pending_bytes:
            # The largest: whoever sends little is not to suffer for it.
            largest = max(self.sizes, key=self.sizes.__getitem__)
            largest.refuse(HTTPStatus.SERVICE_UNAVAILABLE)


class _LimitedProtocol(HttpToolsProtocol):
    """One connection, within limits."""

    _pending: _Pending
    _turns: ReadingTurns

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Bytes that came since the parser last had something whole: headers, a piece of a body, its
        # end. It keeps them.
        self._unread = 0
        self._fields = 0
        self._field_bytes = 0
        self._awaits_head = True
        self._refused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    @property
    def _limits(self) -> ConnectionLimits:
        return self._pending.limits

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def refuse(self, status: HTTPStatus) -> None:
        """Answer before there is a request, and close."""
        self._refused = True
        self._pending.set(self, 0)
        if self._is_answering:  # an earlier request of the same connection
            self.transport.abort()
            return
        text = status.phrase.encode()
        self.transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (status, text, len(text), text)
        )
        self.transport.close()

    # --- what asyncio calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = FlowInTurns(transport, self._turns)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pending.set(self, 0)
        self._stop_head_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for begin in range(0, len(data), _PIECE_BYTES):
            if self._refused or self.transport.is_closing():
                return
            piece = data[begin : begin + _PIECE_BYTES]
            self._unread += len(piece)
            super().data_received(piece)
        if self._refused:
            return
        if self._unread > self._limits.header_bytes:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self._pending.set(self, self._unread)
        if self._awaits_head and self._unread:
            self._start_head_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_send_timer()

    # --- what the parser and uvicorn call ---------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fields = self._field_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._fields += 1
        self._field_bytes += len(name) + len(value)
        self._check_fields()

    def on_headers_complete(self) -> None:
        self._field_bytes += len(self.url)
        self._check_fields()
        self._awaits_head = False
        self._unread = 0
        self._stop_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._awaits_head = True
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # An answer that is small enough never pauses writing, and may lie here as long.
        if self.transport.get_write_buffer_size():
            self._start_send_timer()

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            super().send_400_response(msg)

    # --- limits -----------------------------------------------------------------------------------

    def _check_fields(self) -> None:
        # All of them may have come in one piece, so that there is nothing pending.
        if self._fields > MAX_HEADER_FIELDS or self._field_bytes > self._limits.header_bytes:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise ValueError("the headers are too large")  # ends the parsing

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.header_seconds, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_answering:  # the next request's headers wait for this one's end
            self._start_head_timer()
        elif not self.transport.is_closing():
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _start_send_timer(self) -> None:
        if self._send_timer is None:
            waiting = self.transport.get_write_buffer_size()
            seconds = self._limits.send_seconds + waiting / _SLOWEST_BYTES_PER_SECOND
            self._send_timer = self.loop.call_later(seconds, self._answer_is_left)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _answer_is_left(self) -> None:
        self._send_timer = None
        if self.transport.get_write_buffer_size():
            logger.info("a client does not read its answer; its connection is cut")
            self.transport.abort()


def limited_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Make uvicorn's ``http`` protocol of one server.

    Args:
        limits: What its connections may hold together, and each of them.

    Returns:
        A class; uvicorn makes an instance for each connection.
    """
    shared = {"_pending": _Pending(limits), "_turns": ReadingTurns()}
    return type("LimitedProtocol", (_LimitedProtocol,), shared)
