"""``flowmo serve``: the HTTP service in one process."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmo.cli.listening import check_access, listen, url_of
from flowmo.cli.serve_on_ray import serve_on_ray
from flowmo.cli.server_process import ANNOUNCEMENT

if TYPE_CHECKING:
    from flowmo.service.models import Models
    from flowmo.service.settings import Settings

BACKLOG = 2048


def serve_command(
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help="Checkpoint folder or hub repository [env FLOWMO_CHECKPOINT; the demo model].",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME=CHECKPOINT",
            help="Serve several, the first by default; repeat it [env FLOWMO_MODELS].",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on [env FLOWMO_HOST; 127.0.0.1].")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one [env FLOWMO_PORT; 8000].")
    ] = None,
    api_keys_file: Annotated[
        Path | None,
        typer.Option(help="TOML file of API keys, see docs/access.md [env FLOWMO_API_KEYS_FILE]."),
    ] = None,
    allow_anonymous: Annotated[
        bool | None,
        typer.Option(
            "--allow-anonymous",
            help="Listen beyond this machine without keys [env FLOWMO_ALLOW_ANONYMOUS].",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N [env FLOWMO_DEVICE; auto].")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="auto, float32, bfloat16 or float16 [env FLOWMO_DTYPE; auto]."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads for one operation; 0 measures [env FLOWMO_THREADS]."),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(
            help="torch, compiled, compiled-fp8, onnxruntime, tensorrt, or module:function that "
            "makes one [env FLOWMO_RUNNER; torch]."
        ),
    ] = None,
    engine_cache: Annotated[
        Path | None,
        typer.Option(help="Folder of engines [env FLOWMO_ENGINE_CACHE; the user's cache]."),
    ] = None,
    build_engines: Annotated[
        bool | None,
        typer.Option(help="Make missing engines at the start [env FLOWMO_BUILD_ENGINES; no]."),
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(help="Largest body [env FLOWMO_MAX_BODY_BYTES; 32 MiB].")
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(help="Most pixels of an upload [env FLOWMO_MAX_PIXELS; 50 million]."),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(help="Most steps a client may ask for [env FLOWMO_MAX_STEPS; 1000]."),
    ] = None,
    queue_size: Annotated[
        int | None,
        typer.Option(help="Requests inside at once; more get 429 [env FLOWMO_QUEUE_SIZE; 64]."),
    ] = None,
    image_threads: Annotated[
        int | None,
        typer.Option(help="Images decoded at once [env FLOWMO_IMAGE_THREADS; 2]."),
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(help="Pictures inside each engine at once [env FLOWMO_MAX_QUEUE; 256]."),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(help="Most rows of a batch [env FLOWMO_MAX_BATCH; 8, on a GPU 16]."),
    ] = None,
    default_deadline_seconds: Annotated[
        float | None,
        typer.Option(
            help="Time of a request that does not say [env FLOWMO_DEFAULT_DEADLINE_SECONDS; 120]."
        ),
    ] = None,
    max_deadline_seconds: Annotated[
        float | None,
        typer.Option(help="Most time of a request [env FLOWMO_MAX_DEADLINE_SECONDS; 600]."),
    ] = None,
    max_items: Annotated[
        int | None,
        typer.Option(help="Most pictures of one batch request [env FLOWMO_MAX_ITEMS; 64]."),
    ] = None,
    cache_bytes: Annotated[
        int | None,
        typer.Option(
            help="Decoded pictures kept for requests that repeat, 0 keeps none "
            "[env FLOWMO_CACHE_BYTES; 64 MiB]."
        ),
    ] = None,
    drain_seconds: Annotated[
        float | None,
        typer.Option(help="Longest wait for requests at the end [env FLOWMO_DRAIN_SECONDS; 30]."),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Gateway, encoders and decoders as replicas on Ray: a cluster of this machine's "
            "own, or the one that RAY_ADDRESS names.",
        ),
    ] = False,
    ray_config: Annotated[
        Path | None,
        typer.Option(
            help="With --ray: a `serve deploy` file, whose replicas, models and limits hold.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="text or json [env FLOWMO_LOG_FORMAT; text].")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="Least severe log line [env FLOWMO_LOG_LEVEL; info].")
    ] = None,
) -> None:
    """Serve a checkpoint over HTTP until ^C or SIGTERM; what has begun is finished."""
    given = {name: value for name, value in locals().items() if value is not None}
    if model is not None:
        given["models"] = given.pop("model")
    given.pop("ray_config", None)
    if given.pop("ray") or ray_config is not None:
        serve_on_ray(_settings(given), ray_config)
        return
    settings = _settings(given)
    listener = listen(settings.host, settings.port)
    check_access(settings, listener)
    # Imported here, so that `flowmo --help` and mistakes in options do not wait for torch.
    import uvicorn

    from flowmo.service.http.app import create_app
    from flowmo.service.loader import open_models
    from flowmo.service.telemetry.instruments import PrometheusInstruments
    from flowmo.service.telemetry.logs import log_config
    from flowmo.service.telemetry.metrics import Metrics
    from flowmo.service.telemetry.tracing import export_spans

    export_spans()
    metrics = Metrics(PrometheusInstruments())
    models = open_models(settings, metrics.engines)
    config = uvicorn.Config(
        create_app(models, metrics, settings),
        log_level=settings.log_level,
        log_config=log_config(settings.log_format, settings.log_level),
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )
    listener.listen(BACKLOG)
    typer.echo(f"flowmo: {ANNOUNCEMENT}{url_of(listener)} ({_described(models)})")
    # ^C ends the server in good order; uvicorn raises it again afterwards.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _described(models: "Models") -> str:
    texts = []
    for served in models:
        info = served.engines.info
        texts.append(
            f"model {served.name}, {info.image_size} px, {info.config.payload_bytes} B a picture, "
            f"{info.device} {info.dtype}"
        )
    return "; ".join(texts)


def _settings(given: dict[str, Any]) -> "Settings":
    from pydantic import ValidationError

    from flowmo.service.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise typer.BadParameter(problems) from None
