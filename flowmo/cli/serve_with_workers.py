"""``flowmo serve --workers N``: gateways apart from the engine, as processes of this machine."""

from typing import TYPE_CHECKING, Any

import typer

from flowmo.cli.listening import check_access, listen_together, url_of
from flowmo.cli.server_process import ANNOUNCEMENT

if TYPE_CHECKING:
    from flowmo.service.settings import Settings

BACKLOG = 2048


def check_workers(settings: "Settings", *, on_ray: bool) -> None:
    """Refuse what several gateways cannot do.

    Args:
        settings: The settings of ``flowmo serve``, with several workers.
        on_ray: Whether it is to serve on Ray.

    Raises:
        typer.BadParameter: Something else is asked for, too, that does not go with it.
    """
    if on_ray:
        raise typer.BadParameter(
            f"--workers {settings.workers} is of one machine without Ray; on Ray the gateway's "
            f"min_replicas and max_replicas in --ray-config say how many there are"
        )
    if settings.grpc_port is not None:
        raise typer.BadParameter("--grpc-port is of one process; leave out --workers for gRPC")
    if settings.shared_memory:
        raise typer.BadParameter(
            "--shared-memory is of one process, which knows its clients' regions; leave out "
            "--workers for it"
        )
    if settings.max_concurrent_requests < settings.workers:
        raise typer.BadParameter(
            f"--max-concurrent-requests {settings.max_concurrent_requests} is shared out among "
            f"--workers {settings.workers}, of which each needs one at least"
        )


def serve_with_workers(settings: "Settings") -> None:
    """Serve with several processes until ^C or SIGTERM; SIGHUP loads models and keys again.

    Args:
        settings: The settings of ``flowmo serve``.

    Raises:
        typer.BadParameter: The address is taken, or other machines reach it and there are no keys.
        StartError: The server cannot start.
    """
    listeners = listen_together(settings.host, settings.port, settings.workers)
    check_access(settings, listeners[0].getsockname()[0])
    from flowmo.service.telemetry.logs import configure_logs
    from flowmo.service.workers.supervisor import serve

    configure_logs(settings.log_format, settings.log_level, "supervisor")

    def announce(models: list[dict[str, Any]]) -> None:
        text = "; ".join(
            described(m["name"], m["image_size"], m["bytes"], m["device"], m["dtype"])
            for m in models
        )
        typer.echo(f"flowmo: {ANNOUNCEMENT}{url} ({settings.workers} workers; {text})")

    for listener in listeners:
        listener.listen(BACKLOG)
    url = url_of(listeners[0])
    serve(settings, listeners, announce)


def described(name: str, image_size: int, payload_bytes: int, device: str, dtype: str) -> str:
    """A model as the line says that announces the server."""
    return f"model {name}, {image_size} px, {payload_bytes} B a picture, {device} {dtype}"
