"""``flowmo tokenize``, ``detokenize`` and ``reconstruct``: files and folders."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from flowmo.cli import batch
from flowmo.cli.backends import Backend, Region
from flowmo.cli.files import CONTAINER_SUFFIXES, IMAGE_SUFFIXES, plan
from flowmo.cli.local_backend import local_backend
from flowmo.cli.remote_backend import remote_backend
from flowmo.client import Fit, ImageFormat, Sampling, Schedule
from flowmo.model.container import FILE_SUFFIX
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE

DEFAULT_QUALITY = 90
# Enough to fill a server's batches; the server refuses what it has no room for.
DEFAULT_CONCURRENCY = 8

_FORMAT_OF: dict[str, ImageFormat] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}

Inputs = Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for results, or the file of a single result.",
        show_default="next to the inputs",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
Url = Annotated[
    str | None, typer.Option("--url", help="Use this running server instead of a model here.")
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="FLOWMO_API_KEY", help="API key of the server.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="One of the server's models.", show_default="its first"),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests at once, with --url.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        "-c",
        help="Checkpoint folder, hub repository, or OWNER/NAME:FILE.pth of one.",
        show_default="the demo model",
    ),
]
Preset = Annotated[
    str | None, typer.Option(help="What a published .pth file holds, such as lo or hi.")
]
Device = Annotated[str, typer.Option(help="Device of the model: auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="Dtype of the model: auto, float32, bfloat16 or float16.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads for one operation.", show_default="PyTorch's choice"),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures computed at once (not with --url).")]
FitOption = Annotated[
    Fit,
    typer.Option(
        help="native: tiles of the model's size cover the picture; crop, pad (on white) and "
        "stretch make one square of it."
    ),
]
OverlapOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=0.5,
        help="Share of a tile's side that neighbours have in common, with --fit native.",
        show_default=str(DEFAULT_OVERLAP_SHARE),
    ),
]
RegionOption = Annotated[
    str | None,
    typer.Option(
        "--region",
        help="Decode only this part: X,Y,WIDTH,HEIGHT in pixels.",
        show_default="all",
    ),
]
FormatOption = Annotated[
    ImageFormat | None,
    typer.Option(
        "--format",
        "-f",
        help="Format of the images written.",
        show_default="that of the --out file, else png",
    ),
]
Quality = Annotated[int, typer.Option(min=1, max=100, help="Quality of JPEG and WebP.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the starting noise.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Sampler steps.", show_default="the model's")
]
ScheduleOption = Annotated[
    Schedule | None, typer.Option(help="Time grid.", show_default="the model's")
]
Guidance = Annotated[
    float | None,
    typer.Option(min=0.0, help="Guidance weight; 1 is none.", show_default="the model's"),
]


def tokenize_command(
    inputs: Inputs,
    out: Out = None,
    overwrite: Overwrite = False,
    fit: FitOption = "native",
    overlap: OverlapOption = None,
    url: Url = None,
    api_key: ApiKey = None,
    model: Model = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    checkpoint: Checkpoint = None,
    preset: Preset = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    batch_size: BatchSize = 1,
) -> None:
    """Turn images into tokens: photo.jpg becomes photo.jpg.flowmo."""
    work = plan(inputs, suffixes=IMAGE_SUFFIXES, added=FILE_SUFFIX, out=out)
    here = _Here(checkpoint, preset, device, dtype, threads, batch_size)
    with _backend(here, _There(url, api_key, model, concurrency)) as backend:
        account = batch.run(
            work,
            lambda paths: backend.tokenize(paths, fit=fit, overlap=overlap),
            title="tokenize",
            overwrite=overwrite,
        )
    batch.report(account, verb="tokenized")


def detokenize_command(
    inputs: Inputs,
    out: Out = None,
    overwrite: Overwrite = False,
    format: FormatOption = None,
    quality: Quality = DEFAULT_QUALITY,
    seed: Seed = 0,
    steps: Steps = None,
    schedule: ScheduleOption = None,
    guidance: Guidance = None,
    region: RegionOption = None,
    url: Url = None,
    api_key: ApiKey = None,
    model: Model = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    checkpoint: Checkpoint = None,
    preset: Preset = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    batch_size: BatchSize = 1,
) -> None:
    """Turn tokens into images: photo.jpg.flowmo becomes photo.jpg.flowmo.png."""
    part = _region(region)
    chosen = _format(format, out)
    work = plan(inputs, suffixes=CONTAINER_SUFFIXES, added=f".{chosen}", out=out)
    sampling = _sampling(seed, steps, schedule, guidance)
    here = _Here(checkpoint, preset, device, dtype, threads, batch_size)
    with _backend(here, _There(url, api_key, model, concurrency)) as backend:
        account = batch.run(
            work,
            lambda paths: backend.detokenize(
                paths, sampling=sampling, format=chosen, quality=quality, region=part
            ),
            title="detokenize",
            overwrite=overwrite,
        )
    batch.report(account, verb="detokenized")


def reconstruct_command(
    inputs: Inputs,
    out: Out = None,
    overwrite: Overwrite = False,
    fit: FitOption = "native",
    overlap: OverlapOption = None,
    format: FormatOption = None,
    quality: Quality = DEFAULT_QUALITY,
    seed: Seed = 0,
    steps: Steps = None,
    schedule: ScheduleOption = None,
    guidance: Guidance = None,
    url: Url = None,
    api_key: ApiKey = None,
    model: Model = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    checkpoint: Checkpoint = None,
    preset: Preset = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    batch_size: BatchSize = 1,
) -> None:
    """Turn images into tokens and back: photo.jpg becomes photo.jpg.flowmo.png."""
    chosen = _format(format, out)
    added = f"{FILE_SUFFIX}.{chosen}"
    work = plan(inputs, suffixes=IMAGE_SUFFIXES, added=added, out=out)
    sampling = _sampling(seed, steps, schedule, guidance)
    here = _Here(checkpoint, preset, device, dtype, threads, batch_size)
    with _backend(here, _There(url, api_key, model, concurrency)) as backend:
        account = batch.run(
            work,
            lambda paths: backend.reconstruct(
                paths,
                fit=fit,
                overlap=overlap,
                sampling=sampling,
                format=chosen,
                quality=quality,
            ),
            title="reconstruct",
            overwrite=overwrite,
        )
    batch.report(account, verb="reconstructed")


@dataclass(frozen=True, slots=True)
class _Here:
    """A model in this process."""

    checkpoint: str | None
    preset: str | None
    device: str
    dtype: str
    threads: int | None
    batch_size: int


@dataclass(frozen=True, slots=True)
class _There:
    """A server, if there is a URL."""

    url: str | None
    api_key: str | None
    model: str | None
    concurrency: int


@contextmanager
def _backend(here: _Here, there: _There) -> Iterator[Backend]:
    if there.url is None:
        # A key from the environment may be there for other commands.
        if there.model is not None:
            raise typer.BadParameter(
                "--model is one of a server's: give its --url, or --checkpoint"
            )
        yield local_backend(
            here.checkpoint,
            preset=here.preset,
            device=here.device,
            dtype=here.dtype,
            threads=here.threads,
            batch_size=here.batch_size,
        )
        return
    if here.checkpoint is not None or here.preset is not None:
        raise typer.BadParameter(
            "--checkpoint and --preset are for a model here, --url is for a server: give one"
        )
    with ExitStack() as inside:
        try:
            backend = inside.enter_context(
                remote_backend(
                    there.url,
                    api_key=there.api_key,
                    model=there.model,
                    concurrency=there.concurrency,
                )
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        yield backend


def _format(given: ImageFormat | None, out: Path | None) -> ImageFormat:
    """As asked for, else as the result's file name says, else PNG."""
    if given is not None or out is None:
        return given or "png"
    return _FORMAT_OF.get(out.suffix.lower(), "png")


def _region(given: str | None) -> Region | None:
    """What --region says.

    Raises:
        BadParameter: It is not four whole numbers.
    """
    if given is None:
        return None
    try:
        x, y, width, height = (int(part) for part in given.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"--region is X,Y,WIDTH,HEIGHT in whole pixels, such as 0,0,256,256; got {given!r}"
        ) from None
    return x, y, width, height


def _sampling(
    seed: int, steps: int | None, schedule: Schedule | None, guidance: float | None
) -> Sampling:
    return Sampling(seed=seed, steps=steps, schedule=schedule, guidance=guidance)
