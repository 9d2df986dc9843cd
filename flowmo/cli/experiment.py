"""``flowmo experiment``: experiments of the paper (docs/experiments.md)."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmo.cli.framework import Commands, examples
from flowmo.cli.numbers import numbers
from flowmo.cli.train import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from flowmo.training.experiments import Setup

experiment_app = typer.Typer(
    cls=Commands,
    help="Run experiments of the paper: JSON and a plot each.",
    no_args_is_help=True,
)

_Out = Annotated[Path, typer.Option("--out", "-o", help="Write OUT.json and OUT.png.")]
_Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        help="Pictures to measure on: folder, image, tar or pattern; repeatable. Held-out ones.",
    ),
]
_Limit = Annotated[
    int | None, typer.Option(help="Most of them, evenly spaced.", show_default="all", min=1)
]
_Inception = Annotated[str, typer.Option(help="InceptionV3: library, file, random or none.")]
_Vgg = Annotated[str, typer.Option(help="VGG-16: library, file, random or none.")]
_Lpips = Annotated[str, typer.Option(help="LPIPS' VGG-16: library, file, random or none.")]
_Device = Annotated[str, typer.Option(help="Device: cpu or cuda.")]
_Precision = Annotated[str, typer.Option(help="Precision: float32, bf16 or auto (bf16 on a GPU).")]
_Protocol = Annotated[
    str, typer.Option(help="How figures are measured: service, or paper as the published ones.")
]
_Batch = Annotated[int, typer.Option(help="Pictures at a time.", min=1)]


@experiment_app.command(
    "noise-norm",
    epilog=examples("flowmo experiment noise-norm checkpoints/tiny --data photos/ --out noise"),
)
def noise_norm_command(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoint folders or hub repositories, one a rate.")
    ],
    out: _Out,
    data: _Data = None,
    limit: _Limit = None,
    factors: Annotated[
        str, typer.Option(help="Factors on the initial noise.", show_default="14 from 0 to 1.2")
    ] = "",
    inception: _Inception = "library",
    lpips: _Lpips = "library",
    device: _Device = "cpu",
    precision: _Precision = "auto",
    protocol: _Protocol = "paper",
    batch: _Batch = 16,
) -> None:
    """C.1: rate, distortion and perception by the norm of the initial noise."""
    from flowmo.training.experiments import noise_norm
    from flowmo.training.experiments.noise_norm import FACTORS

    setup = _setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    chosen = numbers(factors, float, "--factors") or FACTORS
    result = noise_norm(checkpoints, setup=setup, out=out, factors=chosen)
    for curve in result["curves"] if result else ():
        typer.echo(f"{curve['checkpoint']}: {curve['bits_per_pixel']:.3f} bit a pixel")
        _table(curve["points"], ("factor", "psnr", "lpips", "rfid"))
    _done(result, out)


@experiment_app.command(
    "width-scaling",
    epilog=examples("flowmo experiment width-scaling --train photos/ --widths 2,3 --out widths"),
)
def width_scaling_command(
    out: _Out,
    train_data: Annotated[
        list[str],
        typer.Option("--train", help="Training pictures, as in flowmo train; repeatable."),
    ],
    recipe: Annotated[
        str, typer.Option(help="Recipe of each run, but for the width.")
    ] = "fewer-params",
    widths: Annotated[str, typer.Option(help="muP widths w of the decoder.")] = "2,3,4,5",
    unit: Annotated[int, typer.Option(help="The decoder is UNIT x w wide.", min=1)] = 192,
    steps: Annotated[int, typer.Option(help="Steps of each run.", min=1)] = 200_000,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="FIELD=VALUE", help="As in flowmo train; repeatable."),
    ] = None,
    data: _Data = None,
    limit: _Limit = None,
    inception: _Inception = "library",
    lpips: _Lpips = "library",
    device: _Device = "cpu",
    precision: _Precision = "auto",
    protocol: _Protocol = "paper",
    batch: _Batch = 16,
) -> None:
    """C.3: train at several widths, evaluate each. Run it again to go on after a stop."""
    from flowmo.training import override, parse_assignments
    from flowmo.training import recipe as find_recipe
    from flowmo.training.experiments import InterruptedExperiment, width_scaling

    changes = parse_assignments(assignments or []) | {"steps": str(steps)}
    config = override(find_recipe(recipe), changes | {"data.paths": ",".join(train_data)})
    setup = _setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    chosen = numbers(widths, int, "--widths")
    try:
        result = width_scaling(config, setup=setup, out=out, widths=chosen, unit=unit)
    except InterruptedExperiment as stopped:
        typer.echo(f"{stopped}; continue with the same command", err=True)
        sys.exit(EXIT_INTERRUPTED)
    rows = result["rows"] if result else []
    _table(rows, ("width", "parameters", "rfid", "psnr", "lpips"))
    _done(result, out)


@experiment_app.command(
    "precision-recall",
    epilog=examples(
        "flowmo experiment precision-recall runs/lo runs/lo-post --train photos/ --out recall"
    ),
)
def precision_recall_command(
    before: Annotated[str, typer.Argument(help="Checkpoint without post-training.")],
    after: Annotated[str, typer.Argument(help="Checkpoint with it.")],
    out: _Out,
    train_data: Annotated[
        list[str], typer.Option("--train", help="Training pictures; repeatable.")
    ],
    train_limit: Annotated[
        int | None, typer.Option(help="Most of them, evenly spaced.", show_default="all", min=1)
    ] = None,
    data: _Data = None,
    limit: _Limit = None,
    vgg: _Vgg = "library",
    inception: _Inception = "library",
    lpips: _Lpips = "library",
    device: _Device = "cpu",
    precision: _Precision = "auto",
    protocol: _Protocol = "paper",
    batch: _Batch = 16,
) -> None:
    """C.4: precision and recall before and after stage 1B."""
    from flowmo.training.experiments import precision_recall

    setup = _setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips, vgg=vgg
    )
    result = precision_recall(
        before, after, train=train_data, train_limit=train_limit, setup=setup, out=out
    )
    rows = [
        {"model": name, **{f"{w}_{k}": row[w][k] for w in ("train", "val") for k in row[w]}}
        for name, row in (result["models"] if result else {}).items()
    ]
    _table(rows, ("model", "train_precision", "train_recall", "val_precision", "val_recall"))
    _done(result, out)


@experiment_app.command(
    "wall-clock",
    epilog=examples("flowmo experiment wall-clock checkpoints/tiny preset:lo --out seconds"),
)
def wall_clock_command(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoints, or preset:NAME with random weights.")
    ],
    out: _Out,
    repeats: Annotated[int, typer.Option(help="Timed runs; the median counts.", min=1)] = 9,
    device: _Device = "cpu",
    precision: _Precision = "auto",
) -> None:
    """C.6: seconds to encode and to decode one picture."""
    from flowmo.training.experiments import wall_clock

    result = wall_clock(checkpoints, out=out, device=device, precision=precision, repeats=repeats)
    rows = [
        {**row, **{half: row[half]["seconds"] for half in ("encode", "decode")}}
        for row in result["rows"]
    ]
    _table(rows, ("model", "steps", "forwards", "encode", "decode"))
    _done(result, out)


@experiment_app.command(
    "published",
    epilog=examples("flowmo experiment published lo hi --data val.tar --device cuda --out table1"),
)
def published_command(
    names: Annotated[list[str], typer.Argument(help="Published checkpoints: lo, hi.")],
    out: _Out,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="NAME=FILE", help="A downloaded .pth file; repeatable."),
    ] = None,
    data: _Data = None,
    limit: _Limit = None,
    inception: _Inception = "library",
    lpips: _Lpips = "library",
    device: _Device = "cpu",
    precision: _Precision = "auto",
    protocol: _Protocol = "paper",
    batch: _Batch = 16,
) -> None:
    """Table 1: fetch, convert and evaluate the published checkpoints; the paper's figures."""
    from flowmo.training.experiments import published
    from flowmo.training.experiments.published import FIGURES

    setup = _setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    named = {name: Path(file) for name, file in _pairs(files, "--file", "NAME=FILE").items()}
    result = published(names, setup=setup, out=out, files=named)
    rows = [
        {"model": f"{name}, {whose}", **row[whose]}
        for name, row in (result["models"] if result else {}).items()
        for whose in ("ours", "paper", "difference")
    ]
    _table(rows, ("model", *FIGURES))
    _done(result, out)


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
    out: _Out,
    data: _Data = None,
    limit: _Limit = None,
    inception: _Inception = "library",
    lpips: _Lpips = "library",
    device: _Device = "cpu",
    precision: _Precision = "auto",
    protocol: _Protocol = "paper",
    batch: _Batch = 16,
) -> None:
    """C.5: several models before and after stage 1B."""
    from flowmo.training.experiments import post_training
    from flowmo.training.experiments.post_training import FIGURES, table

    setup = _setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    chosen: dict[str, tuple[str, str]] = {}
    for name, value in _pairs(pairs, "the argument", "NAME=BEFORE,AFTER").items():
        before, _, after = value.partition(",")
        if not after:
            raise typer.BadParameter(f"{name}={value} is not NAME=BEFORE,AFTER")
        chosen[name] = before, after
    result = post_training(chosen, setup=setup, out=out)
    _table(
        table(result) if result else [], ("model", *FIGURES, *(f"paper {key}" for key in FIGURES))
    )
    _done(result, out)


@experiment_app.command(
    "loss-sweep",
    epilog=examples(
        "flowmo experiment loss-sweep runs/small/export --train photos/ --data val/ --out table2"
    ),
)
def loss_sweep_command(
    init: Annotated[str, typer.Argument(help="Checkpoint of stage 1A that all runs begin with.")],
    out: _Out,
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
    data: _Data = None,
    limit: _Limit = None,
    inception: _Inception = "library",
    lpips: _Lpips = "library",
    device: _Device = "cpu",
    precision: _Precision = "auto",
    protocol: _Protocol = "paper",
    batch: _Batch = 16,
) -> None:
    """Table 2: the loss on samples, and on one-step estimates at several weights."""
    from flowmo.training import override, parse_assignments, start_from
    from flowmo.training import recipe as find_recipe
    from flowmo.training.experiments import InterruptedExperiment, loss_sweep
    from flowmo.training.experiments.loss_sweep import WEIGHTS

    changes = parse_assignments(assignments or []) | {"data.paths": ",".join(train_data)}
    if steps is not None:
        changes |= {"steps": str(steps)}
    config = override(start_from(find_recipe(recipe), init), changes)
    setup = _setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    chosen = numbers(weights, float, "--weights") or WEIGHTS
    try:
        result = loss_sweep(config, setup=setup, out=out, weights=chosen)
    except InterruptedExperiment as stopped:
        typer.echo(f"{stopped}; continue with the same command", err=True)
        sys.exit(EXIT_INTERRUPTED)
    columns = ("loss", "weight", "rfid", "psnr", "lpips", "paper_rfid")
    _table(result["rows"] if result else [], columns)
    _done(result, out)


def _pairs(texts: list[str] | None, option: str, form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts or []:
        name, is_there, value = text.partition("=")
        if not (is_there and name and value):
            raise typer.BadParameter(f"{option} is written {form}, got {text!r}")
        found[name] = value
    return found


def _setup(
    data: list[str] | None,
    limit: int | None,
    device: str,
    precision: str,
    batch: int,
    protocol: str,
    *,
    inception: str,
    lpips: str,
    vgg: str = "none",
) -> "Setup":
    from flowmo.training.evaluation import NetworkSources, Plan, Ranks, find_protocol
    from flowmo.training.experiments import Setup

    return Setup(
        data=tuple(data or ()),
        limit=limit,
        sources=NetworkSources(inception=inception, vgg16=vgg, lpips=lpips),
        device=device,
        precision=precision,
        protocol=find_protocol(protocol),
        plan=Plan(batch=batch, shard=4 * batch),
        ranks=Ranks.from_environment(),
        report=lambda text: typer.echo(text, err=True),
    )


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    if rows:
        typer.echo("".join(f"{name:>17}" for name in columns))
    for row in rows:
        values = (row[name] for name in columns)
        cells = (
            "-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values
        )
        typer.echo("".join(f"{cell:>17}" for cell in cells))


def _done(result: dict[str, Any] | None, out: Path) -> None:
    if result is None:  # the other ranks only help
        return
    for caveat in result.get("caveats", ()):
        typer.echo(f"note: {caveat}", err=True)
    typer.echo(f"{out}.json, {out}.png")
