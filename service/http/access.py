"""Who may use a route: a dependency that runs before a request is admitted or its body read."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from flowmo.service.errors import RateLimitedError, UnauthorizedError
from flowmo.service.http.keys import Keyring
from flowmo.service.telemetry.metrics import Metrics

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="An API key; needed where the server has keys.",
)


async def authorized(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> AsyncIterator[None]:
    """Hold what the request's key may use until the answer has been sent.

    Raises:
        UnauthorizedError: There is no key, or an unknown one.
        RateLimitedError: The key has too many requests inside, or sends too many a second.
    """
    keyring: Keyring = request.app.state.keyring
    metrics: Metrics = request.app.state.service.metrics
    presented = None if credentials is None else credentials.credentials
    with ExitStack() as held:
        try:
            name = held.enter_context(keyring.enter(presented))
        except UnauthorizedError:
            metrics.keys.inc("", "unknown")
            raise
        except RateLimitedError:
            metrics.keys.inc(keyring.name_of(presented), "limited")
            raise
        if name is not None:
            metrics.keys.inc(name, "admitted")
            request.scope["state"]["key"] = name
        yield


AUTHORIZED = Depends(authorized)
