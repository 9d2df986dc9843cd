"""What surrounds every request in Ray's HTTP proxies: errors as problems, and less to keep.

Ray's proxy answers in plain text when a gateway dies, when the time is over, when there is none, or
when all are full, and reads bodies faster than anybody takes them. Ray imports
:func:`middlewares` in each proxy if the environment of its node says so::

    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=flowmo.service.cluster.proxy.middlewares

``flowmo serve --ray`` says it for a cluster of its own; elsewhere each node needs it, and the
limits ``FLOWMO_MAX_BODY_BYTES`` and ``FLOWMO_MAX_CONCURRENT_BYTES`` where they are no defaults.
"""

import asyncio
import math
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowmo.service.cluster.logs import FILE_VARIABLE, configure_process_logs
from flowmo.service.errors import (
    DeadlineExceededError,
    GatewayLostError,
    NotReadyError,
    QueueFullError,
    RequestError,
)
from flowmo.service.http.deadlines import DEADLINE_HEADER
from flowmo.service.http.problems import answer_for, problem, problem_response
from flowmo.service.setting import PREFIX
from flowmo.service.settings import Settings
from flowmo.service.telemetry import logs

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = f"{__name__}.middlewares"
# Ray's own routes, for operators and load balancers.
_RAYS = "/-/"
# Whoever sends it has its work done after it has left.
_STAYS = b"x-request-disconnect-disabled"
# Every answer of a gateway has it, and none of Ray's.
_OURS = "x-content-type-options"
_EVENTS = "text/event-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyLimits:
    """What one proxy keeps of bodies that nobody has taken yet.

    Attributes:
        body_bytes: The most bytes of one request; beyond, its client waits for the answer, which
            is the gateway's refusal.
        total_bytes: The most bytes of all requests; beyond, clients wait.
    """

    body_bytes: int
    total_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that go with those of the gateways."""
        return cls(body_bytes=settings.max_body_bytes, total_bytes=settings.max_concurrent_bytes)

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Self:
        """The limits of a node's environment.

        Args:
            variables: The environment.
        """

        def number(name: str) -> int:
            default = Settings.model_fields[name].default
            return int(variables.get(PREFIX + name.upper()) or default)

        return cls(body_bytes=number("max_body_bytes"), total_bytes=number("max_concurrent_bytes"))

    def to_environment(self) -> dict[str, str]:
        """The variables that say the same."""
        return {
            CALLBACK_VARIABLE: CALLBACK,
            f"{PREFIX}MAX_BODY_BYTES": str(self.body_bytes),
            f"{PREFIX}MAX_CONCURRENT_BYTES": str(self.total_bytes),
        }


def middlewares() -> list[Middleware]:
    """What Ray's proxies put around themselves, the outermost last."""
    if os.environ.get(FILE_VARIABLE):  # else Ray's own logging of the proxy stays as it is
        configure_process_logs()
    limits = ProxyLimits.from_environment(os.environ)
    return [Middleware(BodyRoom, limits=limits), Middleware(ProxyAnswers)]


class BodyRoom:
    """Reads a body only while there is room for it.

    Args:
        app: Ray's proxy.
        limits: How much may be kept.
    """

    def __init__(self, app: ASGIApp, limits: ProxyLimits) -> None:
        self._app, self._limits = app, limits
        self._kept = 0
        self._freed = asyncio.Condition()

    @property
    def kept_bytes(self) -> int:
        """The bytes of the bodies of all requests that have not been answered."""
        return self._kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own, complete = 0, False

        def has_room() -> bool:
            if complete or not own:
                return True  # to notice that the client leaves, or that there is no body
            fits = self._kept < self._limits.total_bytes or own == self._kept
            return fits and own <= self._limits.body_bytes

        async def receive_in_turn() -> Message:
            nonlocal own, complete
            async with self._freed:
                await self._freed.wait_for(has_room)
            message = await receive()
            size = len(message.get("body", b""))
            own += size
            self._kept += size
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        try:
            await self._app(scope, receive_in_turn, send)
        finally:
            self._kept -= own
            async with self._freed:
                self._freed.notify_all()


class ProxyAnswers:
    """Makes what Ray's proxy answers itself a problem (RFC 9457), like every other error.

    Args:
        app: Ray's proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith(_RAYS):
            await self._app(scope, receive, send)
            return
        headers = [pair for pair in scope["headers"] if pair[0].lower() != _STAYS]
        scope = {**scope, "headers": headers}
        answer = _Answer(scope, send)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            await answer.end()


class _Answer:
    """The answer to one request on its way to the client."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._received = time.monotonic()
        # Held back until its body begins: Ray may give up in between, and no answer is begun then.
        self._start: Message | None = None
        self._is_begun = self._is_complete = self._is_stream = False

    async def send(self, message: Message) -> None:
        if self._is_complete:
            return  # what follows an answer of Ray's own
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            self._is_stream = headers.get("content-type", "").startswith(_EVENTS)
            if _OURS not in headers and message["status"] >= HTTPStatus.BAD_REQUEST:
                self._is_begun = self._is_complete = True
                await self._tell(_error_of(message["status"], headers), headers)
            else:
                self._start = message
            return
        if self._start is not None and not self._is_begun:
            self._is_begun = True
            await self._send(self._start)
        self._is_complete = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """Answer what Ray has left without an answer, or without the end of one."""
        if self._is_complete:
            return
        lost: RequestError = GatewayLostError("the gateway that had the request has died")
        if time.monotonic() >= self._received + self._seconds():
            lost = DeadlineExceededError("the answer was not complete by the deadline")
        if not self._is_begun:
            await self._tell(lost, Headers())
        elif self._is_stream:
            document = problem(answer_for(lost), str(lost), request_id=self._id(), error=lost)
            event = f"event: error\ndata: {document.model_dump_json(exclude_none=True)}\n\n"
            await self._send({"type": "http.response.body", "body": event.encode()})

    async def _tell(self, error: RequestError, headers: Headers) -> None:
        async def nothing() -> Message:
            return {"type": "http.disconnect"}

        answer, request_id = answer_for(error), headers.get("x-request-id") or self._id()
        response = problem_response(answer, str(error), request_id=request_id, error=error)
        logs.request_id.set(request_id)
        # The gateway has no line of it, or has died before it wrote one.
        logs.log_answer(
            method=self._scope["method"],
            path=self._scope["path"],
            route="proxy",
            status=answer.status,
            seconds=time.monotonic() - self._received,
            key=None,
            headers={},
            problem=answer.code,
        )
        if (given := headers.get("x-request-id")) is not None:
            response.headers["X-Request-ID"] = given
        response.headers["X-Content-Type-Options"] = "nosniff"
        await response(self._scope, nothing, self._send)

    def _seconds(self) -> float:
        try:
            return float(Headers(scope=self._scope)[DEADLINE_HEADER])
        except (KeyError, ValueError):
            return math.inf

    def _id(self) -> str:
        return Headers(scope=self._scope).get("x-request-id", "")[:128] or uuid.uuid4().hex


def _error_of(status: int, headers: Headers) -> RequestError:
    """What a status of Ray's own means."""
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return DeadlineExceededError("no gateway had answered by the deadline")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        given = headers.get("retry-after", "")
        return QueueFullError(
            "all gateways are full", retry_after=int(given) if given.isdecimal() else 1
        )
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE}:
        return NotReadyError("there is no gateway to take the request now")
    return GatewayLostError("the gateway could not be asked")
