"""Who may use a route: a dependency that runs before a request is admitted or its body read."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Scope

from flowmo.service.errors import RateLimitedError, UnauthorizedError
from flowmo.service.http.keys import Keyring
from flowmo.service.http.service import Service

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
        UnauthorizedError: There is no key, or an unknown one; or the server has none, and the
            request came from another machine.
        RateLimitedError: The key has too many requests inside, or sends too many a second.
    """
    keyring: Keyring = request.app.state.keyring
    service: Service = request.app.state.service
    metrics = service.metrics
    presented = None if credentials is None else credentials.credentials
    with ExitStack() as held:
        try:
            # Here, and not only where a port is bound: whatever serves this application, without
            # keys nobody comes in from elsewhere.
            if not (keyring.guards or service.settings.allow_anonymous or is_local(request.scope)):
                raise UnauthorizedError(
                    "the server has no API keys, and without them answers its own machine alone"
                )
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
            request.scope["state"]["usage"] = keyring.usage_of(name)
        yield


def is_local(scope: Scope) -> bool:
    """Whether a request came in through a loopback address, so that its sender is this machine.

    It is the server's own end of the connection that is looked at, which no header can change.

    Args:
        scope: The request's ASGI scope; one that does not name the address is not local.
    """
    host = (scope.get("server") or ("",))[0]
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


AUTHORIZED = Depends(authorized)
