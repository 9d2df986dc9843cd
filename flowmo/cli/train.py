"""``flowmo train``: a recipe, its overrides, and where the run goes."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowmo.training import TrainConfig
    from flowmo.training.stages import StageResult

EXIT_INTERRUPTED = 130


def train_command(
    recipe: Annotated[
        str,
        typer.Argument(
            help="finetune (of the shipped model); tiny-demo, which is tiny-pretrain and then "
            "tiny-sharp; tiny-post-train, tiny-distill; fewer-params, lo, hi, continuous, "
            "post-train, distill; prior, prior-tiny.",
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
            help="Change a field of the recipe, e.g. optimizer.learning_rate=3e-4, or of one "
            "stage of several, tiny-sharp:max_minutes=60; repeatable.",
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

    from flowmo.model.errors import ConfigError
    from flowmo.training import override, parse_assignments, start_from
    from flowmo.training import recipe as find_recipe
    from flowmo.training.recipes import STAGED_RECIPES
    from flowmo.training.stages import stage_configs, train_stages

    run = _runner(ray_workers, ray_address, gpus_per_worker, ray_retries)
    if recipe in STAGED_RECIPES:
        if init is not None:
            raise ConfigError(f"{recipe} begins with nothing; give --init to one of its stages")
        configs = stage_configs(recipe, assignments or [], data=data or [], out=out)
        if list_fields:
            typer.echo(json.dumps({name: one.to_dict() for name, one in configs.items()}, indent=2))
            return
        # What a stage finds of its own is gone on with: it was looked at before the first.
        for result in train_stages(
            STAGED_RECIPES[recipe], list(configs.values()), partial(run, resume=True), resume=resume
        ):
            _report(result)
        return
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
    _report(run(config, resume=resume))


def _runner(
    workers: int | None, address: str | None, gpus_per_worker: float | None, retries: int
) -> "Callable[..., StageResult]":
    """What trains one run: this process, those of torchrun, or those of Ray Train."""
    from flowmo.training import train
    from flowmo.training.stages import StageResult

    def ours(config: "TrainConfig", *, resume: bool) -> StageResult:
        result = train(config, resume=resume)
        return StageResult(
            recipe=Path(config.output).name,
            stopped=result.stopped,
            step=result.step,
            seconds=result.seconds,
            model=result.best or result.export,
        )

    def on_ray(config: "TrainConfig", *, resume: bool) -> StageResult:
        from flowmo.cli.train_on_ray import RayOptions, train_on_ray

        assert workers is not None
        options = RayOptions(
            workers=workers, address=address, gpus_per_worker=gpus_per_worker, retries=retries
        )
        ended = train_on_ray(config, options, resume=resume)
        return StageResult(
            recipe=Path(config.output).name,
            stopped=ended["stopped"],
            step=ended["step"],
            seconds=ended["seconds"],
            model=Path(ended["best"] or ended["export"]),
        )

    return ours if workers is None else on_ray


def _report(result: "StageResult") -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # the first process reports
    typer.echo(
        f"{result.stopped} after {result.step} steps ({result.seconds / 60:.1f} min); model "
        f"folder: {result.model}"
    )
    if result.stopped == "interrupted":
        typer.echo("continue with the same command and --resume", err=True)
        sys.exit(EXIT_INTERRUPTED)
