"""``flowmo experiment``: the paper's tables, with its figures beside ours."""

from pathlib import Path
from typing import Annotated

import typer

from flowmo.cli.experiment import (
    Batch,
    Data,
    Device,
    Inception,
    Limit,
    Lpips,
    Out,
    Precision,
    Protocol,
    experiment_app,
    make_setup,
    print_done,
    print_table,
    stopped_by_a_signal,
)
from flowmo.cli.framework import examples
from flowmo.cli.numbers import numbers

__all__ = ["experiment_app"]


@experiment_app.command(
    "published",
    epilog=examples("flowmo experiment published lo hi --data val.tar --device cuda --out table1"),
)
def published_command(
    names: Annotated[list[str], typer.Argument(help="Published checkpoints: lo, hi.")],
    out: Out,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="NAME=FILE", help="A downloaded .pth file; repeatable."),
    ] = None,
    data: Data = None,
    limit: Limit = None,
    inception: Inception = "library",
    lpips: Lpips = "library",
    device: Device = "cpu",
    precision: Precision = "auto",
    protocol: Protocol = "paper",
    batch: Batch = 16,
) -> None:
    """Table 1: fetch, convert and evaluate the published checkpoints; the paper's figures."""
    from flowmo.training.experiments import published
    from flowmo.training.experiments.published import FIGURES

    setup = make_setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    named = {name: Path(file) for name, file in _pairs(files, "--file", "NAME=FILE").items()}
    result = published(names, setup=setup, out=out, files=named)
    rows = [
        {"model": f"{name}, {whose}", **row[whose]}
        for name, row in (result["models"] if result else {}).items()
        for whose in ("ours", "paper", "difference")
    ]
    print_table(rows, ("model", *FIGURES))
    print_done(result, out)


@experiment_app.command(
    "post-training",
    epilog=examples(
        "flowmo experiment post-training fewer-params=runs/small/export,runs/small-1b/best --out c5"
    ),
)
def post_training_command(
    pairs: Annotated[
        list[str], typer.Argument(metavar="NAME=BEFORE,AFTER", help="Checkpoints of a model.")
    ],
    out: Out,
    data: Data = None,
    limit: Limit = None,
    inception: Inception = "library",
    lpips: Lpips = "library",
    device: Device = "cpu",
    precision: Precision = "auto",
    protocol: Protocol = "paper",
    batch: Batch = 16,
) -> None:
    """C.5: several models before and after stage 1B."""
    from flowmo.training.experiments import post_training
    from flowmo.training.experiments.post_training import FIGURES, table

    setup = make_setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    chosen: dict[str, tuple[str, str]] = {}
    for name, value in _pairs(pairs, "the argument", "NAME=BEFORE,AFTER").items():
        before, _, after = value.partition(",")
        if not after:
            raise typer.BadParameter(f"{name}={value} is not NAME=BEFORE,AFTER")
        chosen[name] = before, after
    result = post_training(chosen, setup=setup, out=out)
    print_table(
        table(result) if result else [], ("model", *FIGURES, *(f"paper {key}" for key in FIGURES))
    )
    print_done(result, out)


@experiment_app.command(
    "loss-sweep",
    epilog=examples(
        "flowmo experiment loss-sweep runs/small/export --train photos/ --data val/ --out table2"
    ),
)
def loss_sweep_command(
    init: Annotated[str, typer.Argument(help="Checkpoint of stage 1A that all runs begin with.")],
    out: Out,
    train_data: Annotated[
        list[str],
        typer.Option("--train", help="Training pictures, as in flowmo train; repeatable."),
    ],
    recipe: Annotated[str, typer.Option(help="Recipe of stage 1B.")] = "post-train",
    weights: Annotated[
        str,
        typer.Option(help="Weights of the loss on one-step estimates.", show_default="the paper's"),
    ] = "",
    steps: Annotated[
        int | None, typer.Option(help="Steps of each run.", show_default="the recipe's", min=1)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="FIELD=VALUE", help="As in flowmo train; repeatable."),
    ] = None,
    data: Data = None,
    limit: Limit = None,
    inception: Inception = "library",
    lpips: Lpips = "library",
    device: Device = "cpu",
    precision: Precision = "auto",
    protocol: Protocol = "paper",
    batch: Batch = 16,
) -> None:
    """Table 2: the loss on samples, and on one-step estimates at several weights."""
    from flowmo.training import override, parse_assignments, start_from
    from flowmo.training import recipe as find_recipe
    from flowmo.training.experiments import loss_sweep
    from flowmo.training.experiments.loss_sweep import WEIGHTS

    changes = parse_assignments(assignments or []) | {"data.paths": ",".join(train_data)}
    if steps is not None:
        changes |= {"steps": str(steps)}
    config = override(start_from(find_recipe(recipe), init), changes)
    setup = make_setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    chosen = numbers(weights, float, "--weights") or WEIGHTS
    with stopped_by_a_signal():
        result = loss_sweep(config, setup=setup, out=out, weights=chosen)
    columns = ("loss", "weight", "rfid", "psnr", "lpips", "paper_rfid")
    print_table(result["rows"] if result else [], columns)
    print_done(result, out)


@experiment_app.command(
    "resolutions",
    epilog=examples(
        "flowmo experiment resolutions runs/hi/export imagenet=val.tar --device cuda --out table3"
    ),
)
def resolutions_command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or hub repository.")],
    data: Annotated[
        list[str], typer.Argument(metavar="NAME=IMAGES", help="Data sets: imagenet=val.tar ...")
    ],
    out: Out,
    sides: Annotated[
        str, typer.Option("--resolution", help="Sides of the pictures, in pixels.")
    ] = "256,512",
    against: Annotated[
        list[str] | None,
        typer.Option("--against", "-a", help="Others, as in flowmo evaluate; no codecs."),
    ] = None,
    limit: Limit = None,
    inception: Inception = "library",
    lpips: Lpips = "library",
    device: Device = "cpu",
    precision: Precision = "auto",
    protocol: Protocol = "paper",
    batch: Batch = 16,
) -> None:
    """Table 3: a checkpoint at several resolutions on several data sets."""
    from flowmo.training.experiments import resolutions

    setup = make_setup(
        None, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    sets = {name: [value] for name, value in _pairs(data, "a data set", "NAME=IMAGES").items()}
    chosen = numbers(sides, int, "--resolution")
    result = resolutions(
        checkpoint, sets, setup=setup, out=out, sides=chosen, against=against or []
    )
    columns = ("data", "side", "method", "rfid", "psnr", "lpips", "bits_a_pixel")
    print_table(result["rows"] if result else [], columns)
    print_done(result, out)


def _pairs(texts: list[str] | None, option: str, form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts or []:
        name, is_there, value = text.partition("=")
        if not (is_there and name and value):
            raise typer.BadParameter(f"{option} is written {form}, got {text!r}")
        found[name] = value
    return found
