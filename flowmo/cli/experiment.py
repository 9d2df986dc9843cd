"""``flowmo experiment``: experiments of the paper (docs/experiments.md)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

Out = Annotated[Path, typer.Option("--out", "-o", help="Write OUT.json and OUT.png.")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        help="Pictures to measure on: folder, image, tar or pattern; repeatable. Held-out ones.",
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Most of them, evenly spaced.", show_default="all", min=1)
]
Inception = Annotated[str, typer.Option(help="InceptionV3: library, file, random or none.")]
Vgg = Annotated[str, typer.Option(help="VGG-16: library, file, random or none.")]
Lpips = Annotated[str, typer.Option(help="LPIPS' VGG-16: library, file, random or none.")]
Device = Annotated[str, typer.Option(help="Device: cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="Precision: float32, bf16 or auto (bf16 on a GPU).")]
Protocol = Annotated[
    str, typer.Option(help="How figures are measured: service, or paper as the published ones.")
]
Batch = Annotated[int, typer.Option(help="Pictures at a time.", min=1)]


@experiment_app.command(
    "noise-norm",
    epilog=examples("flowmo experiment noise-norm checkpoints/tiny --data photos/ --out noise"),
)
def noise_norm_command(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoint folders or hub repositories, one a rate.")
    ],
    out: Out,
    data: Data = None,
    limit: Limit = None,
    factors: Annotated[
        str, typer.Option(help="Factors on the initial noise.", show_default="14 from 0 to 1.2")
    ] = "",
    inception: Inception = "library",
    lpips: Lpips = "library",
    device: Device = "cpu",
    precision: Precision = "auto",
    protocol: Protocol = "paper",
    batch: Batch = 16,
) -> None:
    """C.1: rate, distortion and perception by the norm of the initial noise."""
    from flowmo.training.experiments import noise_norm
    from flowmo.training.experiments.noise_norm import FACTORS

    setup = make_setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    chosen = numbers(factors, float, "--factors") or FACTORS
    result = noise_norm(checkpoints, setup=setup, out=out, factors=chosen)
    for curve in result["curves"] if result else ():
        typer.echo(f"{curve['checkpoint']}: {curve['bits_per_pixel']:.3f} bit a pixel")
        print_table(curve["points"], ("factor", "psnr", "lpips", "rfid"))
    print_done(result, out)


@experiment_app.command(
    "width-scaling",
    epilog=examples("flowmo experiment width-scaling --train photos/ --widths 2,3 --out widths"),
)
def width_scaling_command(
    out: Out,
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
    data: Data = None,
    limit: Limit = None,
    inception: Inception = "library",
    lpips: Lpips = "library",
    device: Device = "cpu",
    precision: Precision = "auto",
    protocol: Protocol = "paper",
    batch: Batch = 16,
) -> None:
    """C.3: train at several widths, evaluate each. Run it again to go on after a stop."""
    from flowmo.training import override, parse_assignments
    from flowmo.training import recipe as find_recipe
    from flowmo.training.experiments import width_scaling

    changes = parse_assignments(assignments or []) | {"steps": str(steps)}
    config = override(find_recipe(recipe), changes | {"data.paths": ",".join(train_data)})
    setup = make_setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips
    )
    chosen = numbers(widths, int, "--widths")
    with stopped_by_a_signal():
        result = width_scaling(config, setup=setup, out=out, widths=chosen, unit=unit)
    rows = result["rows"] if result else []
    print_table(rows, ("width", "parameters", "rfid", "psnr", "lpips"))
    print_done(result, out)


@experiment_app.command(
    "precision-recall",
    epilog=examples(
        "flowmo experiment precision-recall runs/lo runs/lo-post --train photos/ --out recall"
    ),
)
def precision_recall_command(
    before: Annotated[str, typer.Argument(help="Checkpoint without post-training.")],
    after: Annotated[str, typer.Argument(help="Checkpoint with it.")],
    out: Out,
    train_data: Annotated[
        list[str], typer.Option("--train", help="Training pictures; repeatable.")
    ],
    train_limit: Annotated[
        int | None, typer.Option(help="Most of them, evenly spaced.", show_default="all", min=1)
    ] = None,
    data: Data = None,
    limit: Limit = None,
    vgg: Vgg = "library",
    inception: Inception = "library",
    lpips: Lpips = "library",
    device: Device = "cpu",
    precision: Precision = "auto",
    protocol: Protocol = "paper",
    batch: Batch = 16,
) -> None:
    """C.4: precision and recall before and after stage 1B."""
    from flowmo.training.experiments import precision_recall

    setup = make_setup(
        data, limit, device, precision, batch, protocol, inception=inception, lpips=lpips, vgg=vgg
    )
    result = precision_recall(
        before, after, train=train_data, train_limit=train_limit, setup=setup, out=out
    )
    rows = [
        {"model": name, **{f"{w}_{k}": row[w][k] for w in ("train", "val") for k in row[w]}}
        for name, row in (result["models"] if result else {}).items()
    ]
    print_table(rows, ("model", "train_precision", "train_recall", "val_precision", "val_recall"))
    print_done(result, out)


@experiment_app.command(
    "wall-clock",
    epilog=examples("flowmo experiment wall-clock checkpoints/tiny preset:lo --out seconds"),
)
def wall_clock_command(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoints, or preset:NAME with random weights.")
    ],
    out: Out,
    repeats: Annotated[int, typer.Option(help="Timed runs; the median counts.", min=1)] = 9,
    device: Device = "cpu",
    precision: Precision = "auto",
) -> None:
    """C.6: seconds to encode and to decode one picture."""
    from flowmo.training.experiments import wall_clock

    result = wall_clock(checkpoints, out=out, device=device, precision=precision, repeats=repeats)
    rows = [
        {**row, **{half: row[half]["seconds"] for half in ("encode", "decode")}}
        for row in result["rows"]
    ]
    print_table(rows, ("model", "steps", "forwards", "encode", "decode"))
    print_done(result, out)


@contextmanager
def stopped_by_a_signal() -> Iterator[None]:
    """End the command where a signal stops the experiment inside, and say how to go on."""
    from flowmo.training.experiments import InterruptedExperiment

    try:
        yield
    except InterruptedExperiment as stopped:
        typer.echo(f"{stopped}; continue with the same command", err=True)
        sys.exit(EXIT_INTERRUPTED)


def make_setup(
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
    """How an experiment measures, from the options that all commands share."""
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


def print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Rows under the names of their columns; a dash for None."""
    if rows:
        typer.echo("".join(f"{name:>17}" for name in columns))
    for row in rows:
        values = (row[name] for name in columns)
        cells = (
            "-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values
        )
        typer.echo("".join(f"{cell:>17}" for cell in cells))


def print_done(result: dict[str, Any] | None, out: Path) -> None:
    """Caveats, and where the result is; nothing in other ranks than 0."""
    if result is None:  # the other ranks only help
        return
    for caveat in result.get("caveats", ()):
        typer.echo(f"note: {caveat}", err=True)
    typer.echo(f"{out}.json, {out}.png")
