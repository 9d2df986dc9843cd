"""``flowmo serve``: the HTTP service in one process, in several, or on Ray."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowmo.cli.listening import check_access, listen, url_of
from flowmo.cli.serve_on_ray import serve_on_ray
from flowmo.cli.serve_options import given_settings
from flowmo.cli.serve_with_workers import BACKLOG, check_workers, described, serve_with_workers
from flowmo.cli.server_process import ANNOUNCEMENT

if TYPE_CHECKING:
    from flowmo.service.models import Models
    from flowmo.service.settings import Settings


def serve_command(
    context: typer.Context,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Gateway, encoders and decoders as replicas on Ray: a cluster of this machine's "
            "own, or the one that RAY_ADDRESS names.",
            rich_help_panel="Ray",
        ),
    ] = False,
    ray_config: Annotated[
        Path | None,
        typer.Option(
            help="A `serve deploy` file, whose replicas, models and limits hold; API keys of the "
            "command line or the environment win over its own. Implies --ray.",
            exists=True,
            dir_okay=False,
            rich_help_panel="Ray",
        ),
    ] = None,
) -> None:
    """Serve a checkpoint over HTTP until ^C or SIGTERM; what has begun is finished.

    Without options the model that comes with the package answers on http://127.0.0.1:8000. SIGHUP
    loads models and API keys again.
    """
    settings = given_settings(context)
    on_ray = ray or ray_config is not None
    if settings.grpc_port is not None:
        _check_grpc(on_ray=on_ray)
    if settings.workers > 1:
        check_workers(settings, on_ray=on_ray)
    if on_ray:
        serve_on_ray(settings, ray_config)
    elif settings.workers > 1:
        serve_with_workers(settings)
    else:
        _serve_here(settings)


def _check_grpc(*, on_ray: bool) -> None:
    if on_ray:
        raise typer.BadParameter(
            "--grpc-port is of one process; Ray's proxies speak HTTP to the gateways"
        )
    try:
        import grpc  # noqa: F401
    except ImportError:
        raise typer.BadParameter(
            "--grpc-port needs gRPC; install it with: pip install 'flowmo-serve[grpc]'"
        ) from None


def _serve_here(settings: "Settings") -> None:
    listener = listen(settings.host, settings.port)
    check_access(settings, listener.getsockname()[0])
    if settings.grpc_port is not None:  # gRPC binds it again: what is learnt is that it is free
        listen(settings.host, settings.grpc_port, "--grpc-port").close()
    # Imported here, so that mistakes in options do not wait for torch.
    from flowmo.service.garbage import hold_off

    hold_off()
    import uvicorn

    from flowmo.service.http.app import create_app
    from flowmo.service.http.server import server_config
    from flowmo.service.loader import open_models
    from flowmo.service.telemetry.instruments import PrometheusInstruments
    from flowmo.service.telemetry.logs import configure_logs
    from flowmo.service.telemetry.metrics import Metrics
    from flowmo.service.telemetry.tracing import export_spans

    # Before anything is loaded, which may have something to say.
    configure_logs(settings.log_format, settings.log_level)
    export_spans()
    metrics = Metrics(PrometheusInstruments())
    models = open_models(settings, metrics.engines)
    config = server_config(create_app(models, metrics, settings), settings)
    listener.listen(BACKLOG)
    typer.echo(f"flowmo: {ANNOUNCEMENT}{url_of(listener)} ({_described(models)})")
    # ^C ends the server in good order; uvicorn raises it again afterwards.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _described(models: "Models") -> str:
    infos = [(served.name, served.engines.info) for served in models]
    return "; ".join(
        described(name, info.image_size, info.config.payload_bytes, info.device, info.dtype)
        for name, info in infos
    )
