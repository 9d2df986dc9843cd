"""``flowmo convert``: a published ``.pth`` file to a checkpoint folder."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flowmo.model.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from flowmo.model.config import FlowMoConfig


class Dtype(StrEnum):
    """What a checkpoint's weights can be stored in."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def convert_command(
    source: Annotated[Path, typer.Argument(help="Published file, e.g. flowmo_lo.pth.")],
    out: Annotated[Path, typer.Argument(help="Folder of the checkpoint to write.")],
    preset: Annotated[
        str | None,
        typer.Option("--preset", "-p", help="lo, hi, small, continuous-lo or tiny."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="JSON of another config, or a checkpoint's config.json."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of the weights on disk.")] = Dtype.bfloat16,
    weights: Annotated[
        Literal["ema", "raw"], typer.Option(help="Averaged weights, or those of the last step.")
    ] = "ema",
    max_shard_size: Annotated[
        str, typer.Option(help="Largest safetensors file, e.g. 500MB or 5GB.")
    ] = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint that is in the folder.")
    ] = False,
) -> None:
    """Turn a published .pth file into a checkpoint folder (safetensors and config.json)."""
    if (preset is None) == (config is None):
        raise typer.BadParameter("say what the file holds, by --preset or by --config (one)")
    if out.is_file():
        raise typer.BadParameter(f"{out} is a file; name a folder for the checkpoint")
    if (out / "config.json").exists() and not overwrite:
        raise typer.BadParameter(f"{out} holds a checkpoint; choose another or pass --overwrite")
    # Imported here, so that `flowmo --help` and mistakes in options do not wait for torch.
    from rich.console import Console

    from flowmo.model.checkpoint import inspect_checkpoint
    from flowmo.model.checkpoint_files import DTYPES
    from flowmo.model.config import preset as find_preset
    from flowmo.model.published import convert_published

    chosen = _read_config(config) if preset is None else find_preset(preset)
    with Console(stderr=True).status(f"converting {source.name}"):
        done = convert_published(
            source,
            chosen,
            out,
            weights=weights,
            dtype=DTYPES[dtype],
            max_shard_size=max_shard_size,
        )
    if prefix := done.published.prefix:
        typer.echo(f"every tensor name began with {prefix!r}, which was left out", err=True)
    info = inspect_checkpoint(out)
    steps = done.published.total_steps
    trained = "" if steps is None else f", {steps:,} steps"
    typer.echo(
        f"{out}: {chosen.name}, {done.parameters / 1e6:.2f} M parameters ({weights}{trained}), "
        f"{dtype}, {info.size / 1e6:,.1f} MB in {len(info.files)} file(s), "
        f"fingerprint {done.fingerprint}"
    )


def _read_config(path: Path | None) -> "FlowMoConfig":
    from flowmo.model.config import FlowMoConfig

    assert path is not None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a JSON config: {error}") from error
    if isinstance(data, dict) and "format_version" in data:
        data = data.get("config")
    try:
        return FlowMoConfig.from_dict(data)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
