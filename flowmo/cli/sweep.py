"""``flowmo sweep``: which sampler a checkpoint decodes best with."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flowmo.cli.numbers import intervals, numbers


def sweep_command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or hub repository.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="Folder, image, tar or pattern of images; repeatable.",
            show_default="six held-out photographs",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most images, evenly spaced.", min=1)] = 64,
    steps: Annotated[str, typer.Option(help="Numbers of steps, as 1,2,4.")] = "1,2,4,8,25",
    guidance: Annotated[
        str, typer.Option(help="Guidance weights, as 1,1.5.", show_default="the model's")
    ] = "",
    rho: Annotated[
        str, typer.Option(help="Exponents of the time grid.", show_default="the model's")
    ] = "",
    interval: Annotated[
        str,
        typer.Option(
            help="Guidance intervals as 0.17:1.02,0:10, in sigma.", show_default="the model's"
        ),
    ] = "",
    perceptual: Annotated[
        str, typer.Option(help="Network that judges, too: lpips, vgg-edge, efficientnet-lite0.")
    ] = "none",
    weights: Annotated[
        str, typer.Option(help="Its weights: library (lpips alone), a file, or random (tests).")
    ] = "library",
    rank: Annotated[
        str,
        typer.Option(
            help="What is best: psnr, or perceptual (the least distance).",
            show_default="perceptual where there is a network",
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write OUT.json and OUT.png.")
    ] = None,
    set_default: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Make the best sampler of at most so many evaluations a picture the folder's own.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Device: cpu or cuda.")] = "cpu",
) -> None:
    """Reconstruct images with every combination of settings; print what each gives."""
    import torch

    from flowmo.model import registry
    from flowmo.model.flowmo import FlowMo
    from flowmo.model.inference import InferenceModel
    from flowmo.training.data.pictures import held_out_pictures
    from flowmo.training.evaluation import sweep
    from flowmo.training.perceptual.metrics import PAIR_METRICS, pair_distance
    from flowmo.training.perceptual.ssim import Ssim

    if set_default is not None and not Path(checkpoint).is_dir():
        raise typer.BadParameter(f"--set-default changes a folder, and {checkpoint} is none")
    if perceptual not in ("none", *PAIR_METRICS):
        raise typer.BadParameter(f"--perceptual is none, {', '.join(PAIR_METRICS)}")
    if rank not in ("", "psnr", "perceptual") or (rank == "perceptual" and perceptual == "none"):
        raise typer.BadParameter("--rank is psnr, or perceptual with a --perceptual network")
    judge = None
    if perceptual != "none":
        # mypy does not narrow by a tuple.
        judge = pair_distance(perceptual, weights, device, option="--weights")  # type: ignore[arg-type]
    step_counts = numbers(steps, int, "--steps")
    guided, exponents = numbers(guidance, float, "--guidance"), numbers(rho, float, "--rho")
    ranges = intervals(interval, "--interval")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    network = registry.load(checkpoint, expected=FlowMo)
    model = InferenceModel(network, dtype=dtype, device=device)
    samplers = sweep.settings(
        model.config.sampler,
        steps=step_counts,
        guidance=guided,
        rho=exponents,
        intervals=ranges,
    )
    images = held_out_pictures(data or [], model.config.image_size, limit=limit)
    typer.echo(f"{len(images)} images, {len(samplers)} samplers", err=True)
    typer.echo(
        f"{'steps':>6}{'guidance':>10}{'interval':>14}{'rho':>8}{'forwards':>10}{'PSNR':>8}{'SSIM':>8}"
        f"{'' if judge is None else f'{perceptual:>20}'}"
    )
    if (reason := Ssim().missing) is not None:
        typer.echo(f"note: no SSIM: {reason}", err=True)
    points = sweep.sweep(model, images, samplers, perceptual=judge, on_point=_print_point)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "model": model.config.name,
            "fingerprint": model.fingerprint,
            "images": len(images),
            "perceptual": perceptual,
            "points": [point.to_dict() for point in points],
        }
        out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        sweep.draw(points, out.with_suffix(".png"))
    if set_default is not None:
        by_psnr = judge is None or rank == "psnr"
        by: Literal["psnr", "distance"] = "psnr" if by_psnr else "distance"
        chosen = sweep.best(points, most_forwards=set_default, by=by)
        sweep.set_default(Path(checkpoint), chosen.sampler)
        typer.echo(
            f"{checkpoint} now decodes with {chosen.sampler.steps} steps, guidance "
            f"{chosen.sampler.guidance:g} in {chosen.sampler.guidance_interval}, rho "
            f"{chosen.sampler.rho:g}"
        )


def _print_point(point: object) -> None:
    from flowmo.training.evaluation.sweep import Point

    assert isinstance(point, Point)
    s = point.sampler
    span = f"{s.guidance_interval[0]:g}:{s.guidance_interval[1]:g}"
    typer.echo(
        f"{s.steps:>6}{s.guidance:>10g}{span:>14}{s.rho:>8g}{point.forwards:>10}"
        f"{point.psnr:>8.2f}{'-' if point.ssim is None else format(point.ssim, '.3f'):>8}"
        f"{'' if point.distance is None else format(point.distance, '.4f').rjust(20)}"
    )
