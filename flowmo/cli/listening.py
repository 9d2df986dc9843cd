"""The socket that a server listens on, bound before anything slow is done."""

import ipaddress
import socket
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flowmo.service.settings import Settings


def listen(host: str, port: int, option: str = "--port", *, shared: bool = False) -> socket.socket:
    """Bind before the checkpoint is loaded, so that a taken port is reported at once.

    Args:
        host: The address.
        port: The port; 0 takes a free one.
        option: The option that chooses the port, for the message.
        shared: Whether others may listen there, too, that say so as well and have the same user.

    Raises:
        typer.BadParameter: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on connections; without it, each answer
    # waits 40 ms for the client's delayed acknowledgement of its headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise typer.BadParameter(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or {option} "
            f"({option} 0 takes a free one)"
        ) from None
    return listener


def listen_together(host: str, port: int, number: int) -> list[socket.socket]:
    """Bind several sockets to one port, among which the system shares out connections evenly.

    Args:
        host: The address.
        port: The port; 0 takes a free one.
        number: How many.

    Raises:
        typer.BadParameter: The address cannot be listened on.
    """
    # Alone at first: another server that shares its port must not share it with this one.
    with listen(host, port) as alone:
        port = alone.getsockname()[1]
    return [listen(host, port, shared=True) for _ in range(number)]


def url_of(listener: socket.socket) -> str:
    """The URL at which clients find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_access(settings: "Settings", host: str) -> None:
    """Say at the start that the application would refuse everybody from other machines.

    Args:
        settings: The settings that the application is served with.
        host: The address that is listened on, e.g. ``0.0.0.0``.

    Raises:
        typer.BadParameter: Other machines reach the address, and there are no keys.
    """
    if settings.api_keys or settings.api_keys_file or settings.allow_anonymous:
        return
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        raise typer.BadParameter(
            f"{host} is reached from other machines, and there are no API keys: name a file with "
            f"--api-keys-file (flowmo keys new makes its lines), or say --allow-anonymous"
        )
