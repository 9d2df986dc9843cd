"""Content codings of answers (RFC 9110, section 8.4.1): JSON is sent as gzip or zstd if asked for.

Pictures and token files are no shorter for it, and go as they are.
"""

import asyncio
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Shorter answers fit into a packet or two as they are.
_LEAST_BYTES = 1024
# Above, a thread does it: a batch of pictures in base64 takes seconds.
_ASIDE_BYTES = 64 * 1024
_GZIP_WINDOW = 31  # the largest window, 15, with gzip's header
_LEVEL = {"gzip": 4, "zstd": 3}
_COMPRESSED = ("application/json", "application/problem+json", "application/x-ndjson")
_LINES = "application/x-ndjson"


class Compressor(Protocol):
    """Compresses an answer piece by piece."""

    def compress(self, data: bytes, /) -> bytes:
        """What the piece adds to the compressed answer."""
        ...

    def flush(self, mode: int, /) -> bytes:
        """What is still inside, up to here or to the end."""
        ...


def _gzip() -> tuple[Compressor, int, int]:
    return zlib.compressobj(_LEVEL["gzip"], wbits=_GZIP_WINDOW), zlib.Z_SYNC_FLUSH, zlib.Z_FINISH


def _zstd_module() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:  # the extra is not installed
        return None
    return zstd


_zstd = _zstd_module()


def _zstandard() -> tuple[Compressor, int, int]:
    kind = _zstd.ZstdCompressor
    return kind(_LEVEL["zstd"]), kind.FLUSH_BLOCK, kind.FLUSH_FRAME


# The server's favourite first. Each gives a compressor, and its modes to flush a piece and the end.
CODINGS: dict[str, Callable[[], tuple[Compressor, int, int]]] = {
    **({} if _zstd is None else {"zstd": _zstandard}),
    "gzip": _gzip,
}


def choose_coding(accept: str | None) -> str | None:
    """Choose the coding that a client likes best; None sends the answer as it is.

    Args:
        accept: The value of the Accept-Encoding header; None accepts no coding.
    """
    qualities: dict[str, float] = {}
    for item in (accept or "").split(","):
        name, _, parameter = (part.strip().lower() for part in item.partition(";"))
        try:
            quality = float(parameter.removeprefix("q=")) if parameter else 1.0
        except ValueError:
            quality = 0.0
        qualities[name] = quality
    wanted = {coding: qualities.get(coding, qualities.get("*", 0.0)) for coding in CODINGS}
    best = max(wanted, key=lambda coding: wanted[coding])  # of equals the first
    return best if wanted[best] > 0 and wanted[best] >= qualities.get("identity", 0.0) else None


class ContentCoding:
    """Compresses answers in JSON as far as clients accept it.

    Args:
        app: The application that answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        coding = choose_coding(Headers(scope=scope).get("accept-encoding"))
        await self._app(scope, receive, _Coded(send, coding).send)


class _Coded:
    """One answer on its way."""

    def __init__(self, send: Send, coding: str | None) -> None:
        self._send, self._coding = send, coding
        self._start: Message | None = None
        self._compressor: Compressor | None = None
        self._piece = self._end = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            media_type = headers.get("content-type", "").partition(";")[0]
            if media_type not in _COMPRESSED or "content-encoding" in headers:
                await self._send(message)
                return
            headers.add_vary_header("Accept-Encoding")
            self._start = message
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        if self._start is not None:  # whether it is long enough is known now
            start, self._start = self._start, None
            await self._begin(start, message)
        if self._compressor is not None:
            message = {**message, "body": await self._compressed(message)}
        await self._send(message)

    async def _begin(self, start: Message, message: Message) -> None:
        headers = MutableHeaders(scope=start)
        more = bool(message.get("more_body"))
        if self._coding is not None and (more or len(message.get("body", b"")) >= _LEAST_BYTES):
            self._compressor, self._piece, self._end = CODINGS[self._coding]()
            headers["Content-Encoding"] = self._coding
            if "content-length" in headers:
                del headers["content-length"]  # chunked
        await self._send(start)

    async def _compressed(self, message: Message) -> bytes:
        compressor, data = self._compressor, message.get("body", b"")
        assert compressor is not None
        mode = self._piece if message.get("more_body") else self._end

        def work() -> bytes:
            return compressor.compress(data) + compressor.flush(mode)

        return await asyncio.to_thread(work) if len(data) > _ASIDE_BYTES else work()
