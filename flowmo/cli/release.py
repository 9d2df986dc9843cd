"""``flowmo release``: a run's weights with a model card, in a folder or on the hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flowmo.training.checkpointing.release import Which


def release_command(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[Path, typer.Argument(help="Folder of the release.")],
    weights: Annotated[
        str,
        typer.Option(
            help="best (by validation), export (the last), or auto: the best if there are any."
        ),
    ] = "auto",
    title: Annotated[str | None, typer.Option(help="Title of the model card.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="License of the weights, such as apache-2.0.")
    ] = None,
    data_note: Annotated[
        str | None, typer.Option(help="What the training images are, in words.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="report.json of `flowmo evaluate` for the same weights.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload to this hub repository.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
) -> None:
    """Write a checkpoint with its model card, figures and pictures; upload it if asked to."""
    from flowmo.training.checkpointing.release import push as upload
    from flowmo.training.checkpointing.release import release

    if weights not in ("best", "export", "auto"):
        raise typer.BadParameter(f"--weights is best, export or auto, got {weights!r}")
    which: Which = "auto" if weights == "auto" else "best" if weights == "best" else "export"
    written = release(
        run,
        out,
        which=which,
        title=title,
        licence=licence,
        data_note=data_note,
        source=push,
        evaluation=evaluation,
    )
    figures = ", ".join(f"{name} {value:.4g}" for name, value in written.metrics.items())
    typer.echo(f"{written.folder}: {written.fingerprint}, held out {figures}")
    for name, reason in written.missing.items():
        typer.echo(f"note: no {name.upper()}: {reason}", err=True)
    if push is not None:
        typer.echo(upload(written.folder, push, private=private))
