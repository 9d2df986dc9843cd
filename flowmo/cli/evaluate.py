"""``flowmo evaluate``: how well a checkpoint reconstructs, beside codecs and other tokenizers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flowmo.cli.numbers import numbers
from flowmo.model.config import SamplerConfig
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE

_WEIGHTS = "library (fetched by it), a file, random (tests only) or none."


def evaluate_command(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Checkpoint folder or hub repository.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="Folder, image, tar or pattern of images; repeatable.",
            show_default="six held-out photographs",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the evaluation.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            "-a",
            help="codec:jpeg, codec:webp, codec:avif, codec:jxl, mean-colour, module:function, or "
            "a tokenizer by name: diffusers:REPO, torchscript:ENCODER,DECODER,BITS, llamagen:, "
            "open-magvit2:, titok:, dito: (docs/evaluation.md); repeatable.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Most images, evenly spaced.", show_default="all", min=1)
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="Other images to compare statistics with; repeatable."),
    ] = None,
    reference_limit: Annotated[
        int | None, typer.Option(help="Most of them, evenly spaced.", show_default="all", min=1)
    ] = None,
    steps: Annotated[
        str, typer.Option(help="Numbers of steps, as 4,8,25.", show_default="the model's")
    ] = "",
    guidance: Annotated[
        str, typer.Option(help="Guidance weights, as 1,1.5.", show_default="the model's")
    ] = "",
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures, without a checkpoint.", min=16)
    ] = None,
    resolution: Annotated[
        str,
        typer.Option(
            help="Sides of the pictures, as 256,512: an evaluation and a folder each, the "
            "checkpoint in tiles of its own size.",
            show_default="the model's",
        ),
    ] = "",
    overlap: Annotated[
        float, typer.Option(help="Share of a tile's side that neighbours share.", min=0, max=0.5)
    ] = DEFAULT_OVERLAP_SHARE,
    protocol: Annotated[
        str,
        typer.Option(help="How figures are measured: service, or paper as the published ones."),
    ] = "service",
    codec_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes", help="Bytes a picture for codecs.", show_default="the tokens'", min=1
        ),
    ] = None,
    inception: Annotated[str, typer.Option(help=f"InceptionV3, of rFID: {_WEIGHTS}")] = "library",
    vgg: Annotated[
        str, typer.Option(help=f"VGG-16, of precision and recall: {_WEIGHTS}")
    ] = "library",
    lpips: Annotated[str, typer.Option(help=f"LPIPS' backbone: {_WEIGHTS}")] = "library",
    lpips_net: Annotated[str, typer.Option(help="Network of LPIPS: vgg or alex.")] = "vgg",
    device: Annotated[str, typer.Option(help="Device: cpu or cuda.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="Precision: float32, bf16 or auto (bf16 on a GPU).")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Images at a time.", min=1)] = 16,
    shard: Annotated[int, typer.Option(help="Images a file, a multiple of it.", min=1)] = 64,
    workers: Annotated[
        int | None,
        typer.Option(help="Threads that read images.", show_default="one a core", min=1),
    ] = None,
    shown: Annotated[int, typer.Option(help="Images that the page shows.", min=0)] = 6,
    merge: Annotated[
        Path | None,
        typer.Option(help="Only write the report of this folder, whose files are all there."),
    ] = None,
) -> None:
    """Measure PSNR, SSIM, LPIPS, rFID, precision and recall; run it again to go on after a stop."""
    from flowmo.training import evaluation as ev
    from flowmo.training.evaluation.sweep import settings

    if merge is not None:
        _print_report(ev.merge(merge), merge)
        return
    if out is None:
        raise typer.BadParameter("--out is needed, the folder of the evaluation")
    ranks = ev.Ranks.from_environment()
    place = ranks.device(device)
    rules = ev.find_protocol(protocol)
    model, side = None, size
    samplers: list[SamplerConfig] = []
    if checkpoint is not None:
        model = ev.load_model(checkpoint, device=place, precision=precision)
        samplers = settings(
            model.config.sampler,
            steps=numbers(steps, int, "--steps"),
            guidance=numbers(guidance, float, "--guidance"),
        )
        side = model.config.image_size
    sides = numbers(resolution, int, "--resolution")
    if not sides and side is None:
        raise typer.BadParameter("without a checkpoint, --size says how large the pictures are")
    networks = ev.Networks(
        ev.NetworkSources(
            lpips=lpips,
            lpips_backbone=lpips_net,  # type: ignore[arg-type] # it checks the value itself
            inception=inception,
            vgg16=vgg,
        ),
        place,
        protocol=rules,
    )

    def evaluate(side: int, folder: Path) -> dict[str, Any] | None:
        own: list[ev.Method] = []
        budget = codec_bytes
        if model is not None:
            own += ev.checkpoint_methods(
                model, samplers, side=side, overlap=overlap, protocol=rules
            )
            if model.config.quantizer == "lfq":
                tiled = ev.TiledCheckpointMethod(model, overlap=overlap)
                budget = budget or tiled.token_bytes(side)
        others, caveats = ev.compared(against or [], budget, device=place)
        report = ev.evaluate(
            ev.Evaluation(
                pictures=ev.PictureList(data or [], side, limit=limit, read=rules.read),
                methods=[*own, *others],
                networks=networks,
                reference=ev.PictureList(reference, side, limit=reference_limit, read=rules.read)
                if reference
                else None,
                plan=ev.Plan(batch=batch, shard=shard, shown=shown),
                workers=workers,
            ),
            folder,
            ranks=ranks,
            caveats=caveats,
            on_progress=lambda text: typer.echo(text, err=True),
        )
        if report is not None:
            if sides:
                typer.echo(f"{side} x {side} pixels")
            _print_report(report, folder)
        return report

    if not sides:
        assert side is not None
        evaluate(side, out)
    elif ev.evaluate_resolutions(evaluate, sides, out) is not None:
        typer.echo(f"{out}/resolutions.json")


def _print_report(report: dict[str, Any], out: Path) -> None:
    columns = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "rfid": "rFID"}
    columns |= {"precision": "prec.", "recall": "recall", "bytes": "bytes"}
    typer.echo(f"{'':32}" + "".join(f"{title:>9}" for title in columns.values()))
    for name, method in report["methods"].items():
        values = (method[key] for key in columns)
        cells = (f"{'-':>9}" if value is None else f"{value:>9.4g}" for value in values)
        typer.echo(f"{name:32}" + "".join(cells))
    for caveat in report["caveats"]:
        typer.echo(f"note: {caveat}", err=True)
    typer.echo(f"{out}/report.html, report.json, pictures.csv")
