"""The attempts of one request: what each of them sends, and whether another one follows."""

import logging
import random
from collections.abc import Callable
from typing import Any

import httpx

from flowmo.client.calls import Call
from flowmo.client.errors import ClientError
from flowmo.client.requests import BINARY, Operation

logger = logging.getLogger(__name__)

# A host that takes longer than this to greet is not there.
CONNECT_SECONDS = 5.0
# The server's own answer that a deadline has passed says more than a closed connection.
GRACE_SECONDS = 0.5
# The server takes no deadline of zero or below.
_LEAST_SECONDS = 0.001


class Attempts:
    """Counts one request's attempts, and its time from the first of them.

    Args:
        call: The options that hold for the request.
        timeout: The longest wait for an answer, in seconds.
        now: Tells the time in seconds.
    """

    def __init__(self, call: Call, *, timeout: float, now: Callable[[], float]) -> None:
        self._call, self._timeout, self._now = call, timeout, now
        self._begin: float | None = None
        self._sent = 0.0
        self._failures = 0

    def request(
        self, http: httpx.Client | httpx.AsyncClient, operation: Operation[Any]
    ) -> httpx.Request:
        """The next attempt's request."""
        self._sent = self._now()
        if self._begin is None:
            self._begin = self._sent
        params = dict(operation.params)
        if operation.for_model and self._call.model is not None:
            params["model"] = self._call.model
        files = operation.files
        return http.build_request(
            operation.method,
            operation.path,
            params=params,
            headers={**self._headers(), **operation.headers},
            content=operation.content,
            # A part without a file name would be a field.
            files=None if files is None else [("item", ("item", data, BINARY)) for data in files],
            timeout=self._timeouts(),
        )

    def seconds(self) -> float:
        """Since the latest attempt was sent."""
        return self._now() - self._sent

    def wait_after(self, error: ClientError) -> float | None:
        """Count a failed attempt.

        Returns:
            Seconds until the next one; None if ``error`` is how it ends.
        """
        self._failures += 1
        wait = self._call.retry.wait(
            error, failures=self._failures, left=self._left(), jitter=random.random()
        )
        if wait is not None:
            logger.info(
                "%s: attempt %d failed, the next follows in %.2f s: %s",
                self._call.request_id,
                self._failures,
                wait,
                error,
            )
        return wait

    def _headers(self) -> dict[str, str]:
        headers = {"X-Request-ID": self._call.request_id}
        if self._call.priority is not None:
            headers["Flowmo-Priority"] = self._call.priority
        left = self._left()
        if left is not None:
            headers["X-Request-Timeout-Seconds"] = f"{max(left, _LEAST_SECONDS):.3f}"
        return headers

    def _timeouts(self) -> httpx.Timeout:
        left = self._left()
        longest = self._timeout
        if left is not None:
            longest = min(longest, max(left, 0.0) + GRACE_SECONDS)
        return httpx.Timeout(longest, connect=min(CONNECT_SECONDS, longest))

    def _left(self) -> float | None:
        if self._call.deadline is None or self._begin is None:
            return None
        return self._begin + self._call.deadline - self._now()
