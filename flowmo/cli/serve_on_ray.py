"""``flowmo serve --ray``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flowmo.cli.listening import check_access, listen, url_of
from flowmo.cli.server_process import ANNOUNCEMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowmo.service.cluster.config import ClusterConfig
    from flowmo.service.settings import Settings

ACCESS = {"api_keys", "api_keys_file", "allow_anonymous"}


def serve_on_ray(settings: "Settings", config_file: Path | None) -> None:
    """Serve on a Ray cluster until ^C or SIGTERM; SIGHUP reads the file again and deploys it.

    Args:
        settings: The settings of ``flowmo serve``.
        config_file: A file whose models and limits hold instead of those of ``settings``; who may
            ask is what ``settings`` say, if they say it.

    Raises:
        typer.BadParameter: The address is taken, the file cannot be used, or what it says would let
            nobody in from the machines that reach the address.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise typer.BadParameter(
            "--ray needs Ray Serve; install it with: pip install 'flowmo-serve[serve]'"
        ) from None
    # Ray's proxies bind the address again: what is learnt here is that it is free.
    listener = listen(settings.host, settings.port)
    url, (host, port) = url_of(listener), listener.getsockname()[:2]
    listener.close()
    from flowmo.service.cluster.config import ClusterConfig
    from flowmo.service.cluster.serving import run

    def read() -> ClusterConfig:
        access = _access_of(settings)
        if config_file is not None:
            config = _read(config_file, access)
        else:
            config = ClusterConfig.of_settings(settings.model_copy(update=access))
        # What is served, not what was asked for.
        check_access(config.gateway_settings(), host)
        return config

    models = ", ".join(read().models)
    run(
        read,
        host,
        port,
        announce=lambda: typer.echo(f"flowmo: {ANNOUNCEMENT}{url} (on Ray: {models})"),
    )


def _access_of(settings: "Settings") -> dict[str, Any]:
    """What somebody has set of who may ask; files by names that hold in any folder."""
    given = settings.model_dump(include=ACCESS & settings.model_fields_set)
    if given.get("api_keys_file") is not None:
        given["api_keys_file"] = given["api_keys_file"].absolute()
    return given


def _read(path: Path, access: "Mapping[str, Any]") -> "ClusterConfig":
    """Read a ``serve deploy`` file; ``access`` wins over what it says."""
    import yaml
    from pydantic import ValidationError

    from flowmo.service.cluster.config import ClusterConfig

    try:
        document: Any = yaml.safe_load(path.read_text())
        (application,) = document["applications"]
        args = dict(application["args"])
        args["settings"] = {**(args.get("settings") or {}), **access}
        return ClusterConfig.model_validate(args)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        problems = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else f"expected one application with args ({error!r})"
        )
        raise typer.BadParameter(f"{path}: {problems}") from None
