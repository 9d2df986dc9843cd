"""``flowmo demo``: photographs through a real server, and what came back."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from flowmo.cli.server_process import ServerProcess
from flowmo.client import Client, EncodedImage, Sampling
from flowmo.model.files import write_file
from flowmo.photographs import photograph_paths

if TYPE_CHECKING:
    from flowmo.imaging.reading import Pixels

DEFAULT_OUT = Path("demo-output")


@dataclass(frozen=True, slots=True)
class _Result:
    """One photograph there and back; ``rival`` is WebP at the nearest size."""

    name: str
    original: "Pixels"
    reconstruction: "Pixels"
    rival: "Pixels"
    encoded: EncodedImage
    rival_bytes: int
    encode_seconds: float
    decode_seconds: float


def demo_command(
    photographs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Your own image files.",
            show_default="the samples",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = DEFAULT_OUT,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help="Checkpoint folder or hub repository.",
            show_default="the demo model",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A server that runs already, instead of one of its own.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="FLOWMO_API_KEY", help="API key of that server.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starting noise.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampler steps.", show_default="the model's")
    ] = None,
) -> None:
    """Start a server, send photographs through it, show what comes back, stop it."""
    if url is not None and checkpoint is not None:
        raise typer.BadParameter(
            "--checkpoint is for a server of the demo's own, --url for another"
        )
    paths = photographs or list(photograph_paths())
    if len({path.name for path in paths}) < len(paths):
        raise typer.BadParameter("two photographs have the same file name; rename one")
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    with ExitStack() as stack:
        if url is None:
            arguments = [] if checkpoint is None else ["--checkpoint", checkpoint]
            console.print("starting a server …")
            server = stack.enter_context(ServerProcess(arguments, log=out / "server.log"))
            url = server.url
        client = stack.enter_context(Client(url, api_key=api_key))
        model = client.models()[0]
        console.print(
            f"{url} serves [bold]{model.name}[/bold]: {model.image_size} x "
            f"{model.image_size} pixels in {model.code_length} tokens of {model.token_bits} bits"
        )
        for path in paths:
            result = _send(client, path, model.image_size, Sampling(seed=seed, steps=steps))
            _write(out, result)
            results.append(result)
            console.print(f"  {path.name}: {result.encode_seconds + result.decode_seconds:.2f} s")
    comparison = out / "comparison.png"
    _compare(results, comparison)
    console.print(_table(results))
    console.print(f"tokens and pictures are in {out}/; side by side: {comparison}", soft_wrap=True)


def _send(client: Client, path: Path, size: int, sampling: Sampling) -> _Result:
    """One photograph through HTTP and back."""
    from flowmo.imaging.fit import read_square
    from flowmo.imaging.quality import nearest_webp
    from flowmo.imaging.reading import read_image

    data = path.read_bytes()
    # Squares: one tile a photograph is quick, and all have the same size in the comparison.
    encoded = client.tokenize(data, fit="crop")
    decoded = client.detokenize(encoded.data, sampling=sampling)
    # The same reading and fitting as the server's, to have something to compare with.
    original = read_square(data, size)
    rival = nearest_webp(original, encoded.token_bytes)
    return _Result(
        name=path.name,
        original=original,
        reconstruction=read_image(decoded.data).pixels,
        rival=read_image(rival).pixels,
        encoded=encoded,
        rival_bytes=len(rival),
        encode_seconds=encoded.seconds,
        decode_seconds=decoded.seconds,
    )


def _table(results: list[_Result]) -> Table:
    from flowmo.imaging.quality import psnr

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("photograph", no_wrap=True)
    for title in ("pixels", "tokens", "PSNR dB", "WebP", "PSNR dB", "encode", "decode"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        width, height = result.encoded.upload_size
        table.add_row(
            result.name,
            f"{width}×{height}",
            f"{result.encoded.token_bytes} B",
            f"{psnr(result.original, result.reconstruction):.2f}",
            f"{result.rival_bytes} B",
            f"{psnr(result.original, result.rival):.2f}",
            f"{result.encode_seconds:.2f} s",
            f"{result.decode_seconds:.2f} s",
        )
    return table


def _write(out: Path, result: _Result) -> None:
    from flowmo.imaging.writing import encode_image

    write_file(out / f"{result.name}.flowmo", result.encoded.data)
    write_file(out / f"{result.name}.original.png", encode_image(result.original, "png"))
    write_file(out / f"{result.name}.flowmo.png", encode_image(result.reconstruction, "png"))


def _compare(results: list[_Result], target: Path) -> None:
    """One row a photograph: original, reconstruction, and WebP at the nearest size."""
    from flowmo.cli.contact_sheet import Tile, contact_sheet
    from flowmo.imaging.quality import psnr

    rows = [
        (
            Tile(result.original, result.name),
            Tile(
                result.reconstruction,
                f"FlowMo {result.encoded.token_bytes} B, "
                f"{psnr(result.original, result.reconstruction):.1f} dB",
            ),
            Tile(
                result.rival,
                f"WebP {result.rival_bytes} B, {psnr(result.original, result.rival):.1f} dB",
            ),
        )
        for result in results
    ]
    write_file(target, contact_sheet(rows))
