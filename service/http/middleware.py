"""What surrounds every request: its id, its count, and a limit on its body.

Plain ASGI, because Starlette's ``BaseHTTPMiddleware`` hides disconnects from the application.
"""

import asyncio
import re
import time
import uuid
from contextlib import nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowmo.service.errors import BodyTooLargeError
from flowmo.service.http.admission import Admission
from flowmo.service.telemetry import logs
from flowmo.service.telemetry.metrics import Metrics
from flowmo.service.telemetry.tracing import in_trace, record_stages

REQUEST_ID_HEADER = "X-Request-ID"
REQUEST_ID = r"[A-Za-z0-9._:-]{1,128}"
_REQUEST_ID = re.compile(REQUEST_ID)
_ADMISSION = "admission"
_UPLOAD_SECONDS = "upload_seconds"
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

# How long an answered client may go on sending before the connection is cut.
_LINGER_SECONDS = 5.0


def request_id_of(scope: Scope) -> str:
    """The id of a request that passed :class:`RequestContext`."""
    request_id: str = scope["state"]["request_id"]
    return request_id


def usable_request_id(given: str | None) -> str | None:
    """The id that a client gave its request, if a log can hold it."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


class RequestContext:
    """Gives each request an id, counts and times it, and logs its end.

    A client's own ``X-Request-ID`` is used when it is 1 to 128 letters, digits or ``. _ : -``.

    Args:
        app: The application that answers.
        metrics: The series in which requests are counted.
        answers_id: Whether to put the id into answers; false where a proxy does it.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, answers_id: bool = True) -> None:
        self._app = app
        self._metrics = metrics
        self._answers_id = answers_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = usable_request_id(headers.get(REQUEST_ID_HEADER)) or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        logs.request_id.set(request_id)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status, answer = 500, Headers()

        async def send_with_id(message: Message) -> None:
            nonlocal status, answer
            if message["type"] == "http.response.start":
                status = message["status"]
                mutable = MutableHeaders(scope=message)
                if self._answers_id:
                    mutable[REQUEST_ID_HEADER] = request_id
                mutable["X-Content-Type-Options"] = "nosniff"
                answer = Headers(raw=mutable.raw)
            await send(message)

        begin = time.perf_counter()
        with self._metrics.in_flight(), in_trace(headers):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                # The template, never the path: a stranger must not be able to make new series.
                route = getattr(scope.get("route"), "path", "unmatched")
                seconds = time.perf_counter() - begin
                self._metrics.request(method, route, status, seconds)
                upload = scope["state"].get(_UPLOAD_SECONDS)
                if upload is not None:
                    self._metrics.upload(route, upload)
                logs.log_answer(
                    method=method,
                    path=scope["path"],
                    route=route,
                    status=status,
                    seconds=seconds,
                    key=scope["state"].get("key"),
                    headers=answer,
                    problem=scope["state"].get("problem"),
                    upload_seconds=upload,
                )


class BodyLimit:
    """Refuses bodies over a limit, whether their size is declared or not.

    An application that answers without having read the whole body (a refusal) would make the server
    cut the connection, and the cut can overtake the answer. So what is left is read and thrown away
    for a short while, bounded in time and by the same limit, after the answer has been sent.

    Starlette's own limit answers a declared size in plain text; this one raises
    :class:`BodyTooLargeError`, which is answered like every other error.

    Args:
        app: The application that answers.
        max_bytes: The most bytes of one body.
        send_seconds: The longest time that a client may leave an answer unread.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, send_seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, self._max_bytes)

        async def send_then_linger(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            if not is_last or not body.is_coming:
                admission = body.admission
                with nullcontext() if admission is None else admission.sending(self._send_seconds):
                    await send(message)
                return
            await send({**message, "more_body": True})
            await body.discard()
            await send({"type": "http.response.body", "body": b""})

        await self._app(scope, body.receive, send_then_linger)


def watch_body(scope: Scope, admission: Admission) -> None:
    """Have the bytes of a request's body reserved as they arrive.

    Args:
        scope: The request's ASGI scope, which passed :class:`BodyLimit`.
        admission: What the request has inside.
    """
    scope["state"][_ADMISSION] = admission


def declared_bytes(headers: Headers) -> int | None:
    """The size of a body according to its Content-Length; None if that does not say."""
    declared = headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else None


class _Body:
    def __init__(self, scope: Scope, receive: Receive, max_bytes: int) -> None:
        headers = Headers(scope=scope)
        self._scope = scope
        self._receive = receive
        self._max_bytes = max_bytes
        self._declared = declared_bytes(headers) or 0
        self._seen = 0
        self._begun = False
        self._began = time.perf_counter()
        # A client that asks first, with Expect, has not sent anything until somebody reads.
        self._asks_first = headers.get("expect", "").lower() == "100-continue"
        self._complete = not self._declared and "transfer-encoding" not in headers
        self._is_timed = False

    @property
    def is_coming(self) -> bool:
        """Whether the client is probably still sending."""
        return not self._complete and (self._begun or not self._asks_first)

    @property
    def admission(self) -> Admission | None:
        """What the request has inside, once it has been admitted."""
        admission: Admission | None = self._scope.get("state", {}).get(_ADMISSION)
        return admission

    async def receive(self) -> Message:
        if self._declared > self._max_bytes:
            raise BodyTooLargeError(
                f"the body is {self._declared:,} bytes, at most {self._max_bytes:,} are accepted"
            )
        message = await self._next()
        if self._seen > self._max_bytes:
            raise BodyTooLargeError(
                f"more than the {self._max_bytes:,} bytes came that are accepted"
            )
        if (admission := self.admission) is not None:
            admission.arrived(len(message.get("body", b"")))
            if self._complete:
                admission.complete()
        if self._complete and self._seen and not self._is_timed:
            self._is_timed = True
            if message["type"] == "http.request":  # and not a client that left
                seconds = time.perf_counter() - self._began
                self._scope["state"][_UPLOAD_SECONDS] = seconds
                record_stages({"upload": seconds})
        return message

    async def discard(self) -> None:
        """Read on for a while, to let the client see the answer."""
        limit = self._seen + self._max_bytes
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._complete and self._seen <= limit:
                    await self._next()
        except TimeoutError:
            return

    async def _next(self) -> Message:
        self._begun = True
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        self._complete |= message["type"] != "http.request" or not message.get("more_body", False)
        return message
