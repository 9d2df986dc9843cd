"""The answer of requests for which the time of a shutdown did not suffice."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowmo.service.errors import ShuttingDownError
from flowmo.service.http.middleware import request_id_of
from flowmo.service.http.problems import answer_for, problem_response
from flowmo.service.telemetry.metrics import Metrics


class ShutdownAnswers:
    """Answers a request with a problem when the server ends before the request does.

    The server cancels what is under way when ``--drain-seconds`` are over, and would answer it with
    500 in plain text. What has begun to be answered is cut off.

    Args:
        app: The application that answers.
        metrics: The series in which errors are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if begun:
                raise
            error = ShuttingDownError("the server ends, and the request was not done before")
            answer = answer_for(error)
            self._metrics.errors.inc(answer.code)
            scope["state"]["problem"] = answer.code
            response = problem_response(
                answer, str(error), request_id=request_id_of(scope), error=error
            )
            await response(scope, receive, send)
