"""``flowmo evaluate-generation``: how good the pictures are that a prior generates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmo.cli.numbers import numbers

if TYPE_CHECKING:
    from flowmo.training.evaluation import Networks, Ranks
    from flowmo.training.evaluation.adm import AdmStatistics


def evaluate_generation_command(
    prior: Annotated[str, typer.Argument(help="Prior: a checkpoint folder or hub repository.")],
    reference: Annotated[
        list[str],
        typer.Option(
            "--reference",
            "-r",
            help="Real images to compare with (folder, tar or pattern; repeatable), or one .npz of "
            "ADM or of flowmo statistics.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the evaluation.")],
    tokenizer: Annotated[
        str, typer.Option(help="Tokenizer of the prior: a checkpoint folder or hub repository.")
    ] = "tiny",
    samples: Annotated[int, typer.Option(help="Pictures of each sampler.", min=2)] = 50_000,
    temperature: Annotated[
        str,
        typer.Option(help="Softmax temperatures, as 0.9,1,1.1.", show_default="the prior's"),
    ] = "",
    guidance: Annotated[
        str, typer.Option(help="Guidance weights, as 1,1.5.", show_default="the prior's")
    ] = "",
    steps: Annotated[
        str, typer.Option(help="Numbers of steps, as 32,64.", show_default="the prior's")
    ] = "",
    set_default: Annotated[
        bool, typer.Option("--set-default", help="Make the least gFID's sampler the prior's own.")
    ] = False,
    protocol: Annotated[
        str,
        typer.Option(help="How reference images are cut: service (Lanczos) or paper (bilinear)."),
    ] = "paper",
    inception: Annotated[
        str,
        typer.Option(help="InceptionV3: library (fetched by it), a file, or random (tests only)."),
    ] = "library",
    device: Annotated[str, typer.Option(help="Device: cpu or cuda.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="Precision: float32, bf16 or auto (bf16 on a GPU).")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Pictures at a time.", min=1)] = 64,
    shard: Annotated[
        int, typer.Option(help="Pictures a file, a multiple of it; a stop loses one.", min=1)
    ] = 512,
    shown: Annotated[int, typer.Option(help="Pictures that the page shows.", min=0)] = 16,
) -> None:
    """Measure what a prior generates: gFID, sFID, IS, precision, recall; go on after a stop."""
    from itertools import product

    from flowmo.model import registry
    from flowmo.model.prior.checkpoint import Prior
    from flowmo.training import evaluation as ev
    from flowmo.training.evaluation.generation import Generation, evaluate_generation
    from flowmo.training.evaluation.sweep import set_default as write_default

    if set_default and not Path(prior).is_dir():
        raise typer.BadParameter(f"--set-default changes a folder, and {prior} is none")
    ranks = ev.Ranks.from_environment()
    place = ranks.device(device)
    decoder = ev.load_model(tokenizer, device=place, precision=precision)
    model = registry.load(prior, expected=Prior, dtype=decoder.dtype, device=place)
    base = model.config.sampler
    samplers = [
        base.changed(temperature=t, guidance=g, steps=s)
        for g, s, t in product(
            numbers(guidance, float, "--guidance") or [base.guidance],
            numbers(steps, int, "--steps") or [base.steps],
            numbers(temperature, float, "--temperature") or [base.temperature],
        )
    ]
    networks = ev.Networks(
        ev.NetworkSources(inception=inception, vgg16="none", lpips="none"), place
    )
    generation = Generation(
        prior=model,
        decoder=decoder,
        samplers=samplers,
        networks=networks,
        count=samples,
        plan=ev.Plan(batch=batch, shard=shard, shown=shown),
    )
    compared = _reference(
        reference, networks, out, size=decoder.config.image_size, protocol=protocol, ranks=ranks
    )
    report = evaluate_generation(
        generation, compared, out, source=", ".join(reference), ranks=ranks, on_progress=_tell
    )
    if report is None:
        return
    _print(report)
    typer.echo(f"{out}/report.html, report.json")
    if set_default:
        chosen = next(s for s, name in zip(samplers, report["samplers"], strict=True)
                      if name == report["best"])  # fmt: skip
        write_default(Path(prior), chosen)
        typer.echo(f"{prior} now draws with {report['best']}")


def _reference(
    paths: list[str],
    networks: "Networks",
    out: Path,
    *,
    size: int,
    protocol: str,
    ranks: "Ranks",
) -> "AdmStatistics":
    """A file's statistics, or those of images, which OUT/reference.npz keeps."""
    from flowmo.training import evaluation as ev
    from flowmo.training.evaluation.adm import read_statistics
    from flowmo.training.evaluation.protocol import MANIFOLD_PICTURES
    from flowmo.training.evaluation.run import wait_for
    from flowmo.training.evaluation.statistics_file import make_statistics

    if len(paths) == 1 and paths[0].endswith(".npz"):
        return read_statistics(Path(paths[0]))
    file, rules = out / "reference.npz", ev.find_protocol(protocol)
    make_statistics(
        ev.PictureList(paths, size, read=rules.read),
        networks,
        file,
        work=out / "reference.work",
        pictures=MANIFOLD_PICTURES,
        batch=64,
        ranks=ranks,
        protocol=rules,
        on_progress=_tell,
    )
    wait_for([file], _tell)  # rank 0 writes it
    return read_statistics(file)


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _print(report: dict[str, Any]) -> None:
    columns = {"gfid": "gFID", "sfid": "sFID", "inception_score": "IS"}
    columns |= {"precision": "prec.", "recall": "recall"}
    typer.echo(f"{'':44}" + "".join(f"{title:>9}" for title in columns.values()))
    for name, values in report["samplers"].items():
        cells = (f"{'-':>9}" if values[key] is None else f"{values[key]:>9.4g}" for key in columns)
        typer.echo(f"{name:44}" + "".join(cells))
    for caveat in report["caveats"]:
        typer.echo(f"note: {caveat}", err=True)
