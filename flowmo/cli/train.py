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
            help="finetune (of the shipped model); tiny-demo, tiny-sharp, tiny-post-train, "
            "tiny-distill; fewer-params, lo, hi, continuous, post-train, distill; prior, "
            "prior-tiny.",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="Folder, image, uncompressed tar or glob pattern of training images, or for a "
            "prior the folder of their tokens; repeatable.",
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
    ray_workers: Annotated[
        int | None,
        typer.Option("--ray-workers", metavar="N", help="Train as N processes of Ray Train."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            envvar="RAY_ADDRESS",
            help="With --ray-workers: the cluster; without it, one of this machine's own.",
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-worker",
            help="With --ray-workers: 0, or 0.6 ... 1; the rest of a GPU is for what serves on it.",
        ),
    ] = None,
    ray_retries: Annotated[
        int,
        typer.Option(
            "--ray-retries",
            help="With --ray-workers: how often all processes start anew after one has failed.",
        ),
    ] = 3,
) -> None:
    """Train, post-train or distill a tokenizer, or a prior. ^C saves; --resume goes on exactly."""
    # Imported here, so that `flowmo --help` does not wait for torch.
    import json
    from dataclasses import replace

    from flowmo.training import override, parse_assignments, start_from, train
    from flowmo.training import recipe as find_recipe

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
    if ray_workers is not None:
        from flowmo.cli.train_on_ray import RayOptions, train_on_ray

        options = RayOptions(
            workers=ray_workers,
            address=ray_address,
            gpus_per_worker=gpus_per_worker,
            retries=ray_retries,
        )
        ended = train_on_ray(config, options, resume=resume)
        _report(ended["stopped"], ended["step"], ended["seconds"], ended["best"] or ended["export"])
        return
    result = train(config, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return  # the first process reports
    _report(result.stopped, result.step, result.seconds, result.best or result.export)


def _report(stopped: str, step: int, seconds: float, model: str | Path) -> None:
    typer.echo(f"{stopped} after {step} steps ({seconds / 60:.1f} min); model folder: {model}")
    if stopped == "interrupted":
        typer.echo("continue with the same command and --resume", err=True)
        sys.exit(EXIT_INTERRUPTED)
