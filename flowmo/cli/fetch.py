"""``flowmo fetch``: a checkpoint from a hub, a bucket, a URL or a disk into a folder."""

from pathlib import Path
from typing import Annotated

import typer


def fetch_command(
    source: Annotated[
        str,
        typer.Argument(
            help="owner/name or owner/name:file.pth of a hub; s3://, gs:// or https:// of a folder "
            "or a .pth file; a path."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write; of this checkpoint alone.")],
    preset: Annotated[
        str | None, typer.Option("--preset", "-p", help="What a .pth file holds: lo, hi, small, …")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="64 hex digits that a .pth file must have.")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="32 hex digits that the checkpoint must have.")
    ] = None,
) -> None:
    """Fetch a checkpoint, check every weight, and only then give it its name."""
    from flowmo.model.fetching import Source, fetch_checkpoint

    wanted = Source(
        name=source, preset=preset, revision=revision, sha256=sha256, fingerprint=fingerprint
    )
    info, new = fetch_checkpoint(wanted, folder)
    typer.echo(
        f"{folder}: {info.config.name}, {info.size / 1e6:,.1f} MB, fingerprint {info.fingerprint}"
        + ("" if new else " (was there already)")
    )
