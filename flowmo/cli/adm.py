"""``flowmo statistics`` and ``flowmo evaluate-samples``: ADM's files and figures."""

from pathlib import Path
from typing import Annotated

import typer

_Inception = Annotated[
    str, typer.Option(help="InceptionV3: library (fetched by it), a file, or random (tests only).")
]
_Device = Annotated[str, typer.Option(help="Device: cpu or cuda.")]
_Batch = Annotated[int, typer.Option(help="Images at a time.", min=1)]
_Limit = Annotated[
    int | None, typer.Option(help="Most images, evenly spaced.", show_default="all", min=1)
]
_Protocol = Annotated[
    str, typer.Option(help="How images are cut to squares: service (Lanczos) or paper (bilinear).")
]


def statistics_command(
    data: Annotated[list[str], typer.Argument(help="Folders, images, tars or patterns of images.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npz file to write.")],
    size: Annotated[int, typer.Option(help="Side of the squares.", min=16)] = 256,
    limit: _Limit = None,
    pictures: Annotated[
        int,
        typer.Option(help="Images that the file holds, for precision and recall; 0 for none."),
    ] = 10_000,
    inception: _Inception = "library",
    device: _Device = "cpu",
    protocol: _Protocol = "paper",
    batch: _Batch = 64,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of what is done so far.", show_default="OUT.work"),
    ] = None,
) -> None:
    """Write ADM's statistics (.npz) of images; run it again to go on after a stop."""
    from flowmo.training import evaluation as ev
    from flowmo.training.evaluation.statistics_file import make_statistics

    ranks, rules = ev.Ranks.from_environment(), ev.find_protocol(protocol)
    networks = ev.Networks(
        ev.NetworkSources(inception=inception, vgg16="none", lpips="none"), ranks.device(device)
    )
    images = ev.PictureList(data, size, limit=limit, read=rules.read)
    count = make_statistics(
        images,
        networks,
        out,
        work=work or out.with_name(f"{out.name}.work"),
        pictures=pictures,
        batch=batch,
        ranks=ranks,
        protocol=rules,
        on_progress=lambda text: typer.echo(text, err=True),
    )
    if count is not None:
        typer.echo(f"{out}: statistics of {count:,} images")


def evaluate_samples_command(
    samples: Annotated[
        list[str], typer.Argument(help="Generated images, or one .npz with arr_0 as ADM has it.")
    ],
    reference: Annotated[
        Path, typer.Option("--reference", "-r", help="ADM's .npz, or one of flowmo statistics.")
    ],
    size: Annotated[
        int,
        typer.Option(help="Side of the images; others are cut and resized (Lanczos).", min=16),
    ] = 256,
    limit: _Limit = None,
    inception: _Inception = "library",
    device: _Device = "cpu",
    batch: _Batch = 64,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the figures as JSON.")
    ] = None,
) -> None:
    """Measure generated images as ADM's evaluator: gFID, sFID, IS, precision, recall."""
    from dataclasses import asdict

    from rich.console import Console

    from flowmo.imaging.reading import Pixels
    from flowmo.training import evaluation as ev
    from flowmo.training.environment import environment
    from flowmo.training.evaluation import adm
    from flowmo.training.json_report import write_json

    compared = adm.read_statistics(reference)
    source: ev.PictureList | Pixels
    if len(samples) == 1 and samples[0].endswith(".npz"):
        stored = adm.read_statistics(Path(samples[0])).pictures
        if stored is None:
            raise ev.EvaluationError(f"{samples[0]} holds no images: there is no arr_0")
        source = stored if limit is None else stored[:limit]
    else:
        source = ev.PictureList(samples, size, limit=limit)
    networks = ev.Networks(
        ev.NetworkSources(inception=inception, vgg16="none", lpips="none"), device
    )
    with Console(stderr=True).status("measuring") as status:
        found = adm.measure_generated(
            adm.batches_of(source, batch=batch),
            compared,
            networks,
            on_progress=lambda done: status.update(f"{done:,} of {len(source):,} images"),
        )
    figures = asdict(found)
    for name, value in figures.items():
        typer.echo(f"{name:18}{'-' if value is None else format(value, '.5g'):>12}")
    if networks.weights[ev.INCEPTION] == "random":
        typer.echo("note: InceptionV3's weights are random: the figures mean nothing", err=True)
    if out is not None:
        report = {
            **figures,
            "samples": samples,
            "reference": str(reference),
            "networks": networks.weights,
            "environment": environment(),
        }
        write_json(out, report)
