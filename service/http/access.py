"""Who may use a route: a dependency that runs before a request is admitted or its body read."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
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
    presented = None if credentials is None else credentials.credentials
    local = is_local(request.scope)
    async with let_in(keyring, service, presented, is_local=local) as name:
        if name is not None:
            request.scope["state"]["key"] = name
            request.scope["state"]["usage"] = keyring.usage_of(name)
        yield


@asynccontextmanager
async def let_in(
    keyring: Keyring, service: Service, presented: str | None, *, is_local: bool
) -> AsyncIterator[str | None]:
    """Hold what a request's key may use while the block runs, however the request came.

    Args:
        keyring: The server's keys.
        service: The parts that all routes share.
        presented: The key that came with the request; None without one.
        is_local: Whether the request came from this machine.

    Yields:
        The key's name; None where no key is needed.

    Raises:
        UnauthorizedError: As of :func:`authorized`.
        RateLimitedError: As of :func:`authorized`.
    """
    metrics = service.metrics
    async with AsyncExitStack() as held:
        try:
            check_anonymous(keyring, service, is_local=is_local)
            name = await held.enter_async_context(keyring.enter(presented))
        except UnauthorizedError:
            metrics.keys.inc("", "unknown")
            raise
        except RateLimitedError:
            metrics.keys.inc(keyring.name_of(presented), "limited")
            raise
        if name is not None:
            metrics.keys.inc(name, "admitted")
        yield name


async def identified(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str | None:
    """The name of the request's key, of which nothing is used up; None where no key is needed.

    Raises:
        UnauthorizedError: As of :func:`authorized`.
    """
    keyring: Keyring = request.app.state.keyring
    service: Service = request.app.state.service
    try:
        check_anonymous(keyring, service, is_local=is_local(request.scope))
        presented = None if credentials is None else credentials.credentials
        return keyring.name_of(presented) if keyring.guards else None
    except UnauthorizedError:
        service.metrics.keys.inc("", "unknown")
        raise


def check_anonymous(keyring: Keyring, service: Service, *, is_local: bool) -> None:
    """Refuse those of other machines where there are no keys.

    Here, and not only where a port is bound: whatever serves the application, without keys nobody
    comes in from elsewhere.

    Args:
        keyring: The server's keys.
        service: The parts that all routes share.
        is_local: Whether the request came from this machine.

    Raises:
        UnauthorizedError: The request may not come in.
    """
    if not (keyring.guards or service.settings.allow_anonymous or is_local):
        raise UnauthorizedError(
            "the server has no API keys, and without them answers its own machine alone"
        )


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
