"""``flowmo serve --ray``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flowmo.cli.listening import check_access, listen, url_of
from flowmo.cli.server_process import ANNOUNCEMENT

if TYPE_CHECKING:
    from flowmo.service.cluster.config import ClusterConfig
    from flowmo.service.settings import Settings


def serve_on_ray(settings: "Settings", config_file: Path | None) -> None:
    """Serve on a Ray cluster until ^C or SIGTERM; SIGHUP reads the file again and deploys it.

    Args:
        settings: The settings of ``flowmo serve``.
        config_file: A file whose models and limits hold instead of those of ``settings``.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise typer.BadParameter(
            "--ray needs Ray Serve; install it with: pip install 'flowmo-serve[serve]'"
        ) from None
    # Ray's proxies bind the address again: what is learnt here is that it is free.
    listener = listen(settings.host, settings.port)
    check_access(settings, listener)
    url, (host, port) = url_of(listener), listener.getsockname()[:2]
    listener.close()
    from flowmo.service.cluster.config import ClusterConfig
    from flowmo.service.cluster.serving import run

    def read() -> ClusterConfig:
        return ClusterConfig.of_settings(settings) if config_file is None else _read(config_file)

    models = ", ".join(read().models)
    run(
        read,
        host,
        port,
        announce=lambda: typer.echo(f"flowmo: {ANNOUNCEMENT}{url} (on Ray: {models})"),
    )


def _read(path: Path) -> "ClusterConfig":
    import yaml
    from pydantic import ValidationError

    from flowmo.service.cluster.config import ClusterConfig

    try:
        document: Any = yaml.safe_load(path.read_text())
        (application,) = document["applications"]
        return ClusterConfig.model_validate(application["args"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        problems = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else f"expected one application with args ({error!r})"
        )
        raise typer.BadParameter(f"{path}: {problems}") from None
