"""``flowmo train``: a recipe, its overrides, and where the run goes."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

EXIT_INTERRUPTED = 130


def train_command(
    recipe: Annotated[
        str,
        typer.Argument(
            help="tiny-demo, fewer-params, lo, hi, continuous, post-train, distill; "
            "tiny-post-train, tiny-distill.",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="Folder, image, uncompressed tar or glob pattern of training images; repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder (default: the recipe's own).")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="Checkpoint folder or hub repository to begin with; the run takes its sizes.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="FIELD=VALUE",
            help="Change a field of the recipe, e.g. optimizer.learning_rate=3e-4; repeatable.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the run folder's latest checkpoint, if any."),
    ] = False,
    list_fields: Annotated[
        bool, typer.Option("--list-fields", help="Print the resulting config as JSON and exit.")
    ] = False,
) -> None:
    """Train, post-train or distill a tokenizer. ^C saves; --resume then continues exactly."""
    # Imported here, so that `flowmo --help` does not wait for torch.
    import json
    from dataclasses import replace

    from training import override, parse_assignments, start_from, train
    from training import recipe as find_recipe

    changes = parse_assignments(assignments or [])
    config = find_recipe(recipe)
    if init is not None:
        config = start_from(config, init)
    config = override(config, changes)
    if data:
        config = replace(config, data=replace(config.data, paths=tuple(data)))
    if out is not None:
        config = replace(config, output=str(out))
    if list_fields:
        typer.echo(json.dumps(config.to_dict(), indent=2))
        return
    result = train(config, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # the first process tells
    typer.echo(
        f"{result.stopped} after {result.step} steps ({result.seconds / 60:.1f} min); "
        f"model folder: {result.best or result.export}"
    )
    if result.stopped == "interrupted":
        typer.echo("continue with the same command and --resume", err=True)
        sys.exit(EXIT_INTERRUPTED)
