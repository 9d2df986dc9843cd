"""``flowmo generate``: new images of a class, as pictures and as tokens."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowmo.cli.files import shown
from flowmo.cli.generate_wish import Made, Wish
from flowmo.cli.tokens import (
    DEFAULT_QUALITY,
    ApiKey,
    Checkpoint,
    Device,
    Dtype,
    Model,
    Overwrite,
    Preset,
    Quality,
    Threads,
    Url,
)
from flowmo.client import ImageFormat
from flowmo.model.container import FILE_SUFFIX
from flowmo.model.errors import ConfigError

if TYPE_CHECKING:
    from flowmo.model.container import Container

DEFAULT_IMAGES_AT_ONCE = 8
DEFAULT_OUT = Path("generated")


class Write(StrEnum):
    """What is written of each image."""

    PICTURES = "pictures"
    TOKENS = "tokens"
    BOTH = "both"


def generate_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = DEFAULT_OUT,
    prior: Annotated[
        str | None,
        typer.Option(
            "--prior",
            help="The prior: a checkpoint folder or hub repository (not with --url).",
            show_default="that of the demo model",
        ),
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="The class, by name or number.", show_default="none"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 1,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**62, help="Seed of the first image; each further one has the next."
        ),
    ] = 0,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Most steps of the prior.", show_default="the prior's"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Weight of the class; 1 is none.", show_default="the prior's"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0.0, help="Softmax temperature.", show_default="the prior's"),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="A .flowmo file of one square, of whose tokens those of --keep stay.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Tokens of --tokens that stay: numbers and ranges, as in 0-31,40."),
    ] = None,
    write: Annotated[
        Write, typer.Option("--write", help="What is written of each image.")
    ] = Write.BOTH,
    format: Annotated[
        ImageFormat, typer.Option("--format", "-f", help="Format of the pictures.")
    ] = "png",
    quality: Quality = DEFAULT_QUALITY,
    decode_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sampler steps in which tokens become a picture.",
            show_default="the tokenizer's",
        ),
    ] = None,
    overwrite: Overwrite = False,
    url: Url = None,
    api_key: ApiKey = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    preset: Preset = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images computed at once (not with --url).")
    ] = DEFAULT_IMAGES_AT_ONCE,
) -> None:
    """Generate images of a class: a seed gives the same image, whatever is made beside it.

    The results are CLASS-SEED.flowmo and CLASS-SEED.png in the folder.
    """
    container, mask = _kept(tokens, keep)
    wish = Wish(
        class_=class_,
        count=count,
        seed=seed,
        steps=steps,
        guidance=guidance,
        temperature=temperature,
        container=container,
        mask=mask,
        decode_steps=decode_steps,
        format=None if write is Write.TOKENS else format,
        quality=quality,
    )
    targets = _targets(out, wish, write)
    if not overwrite and (there := next((path for path in targets if path.exists()), None)):
        raise typer.BadParameter(f"{shown(there)} exists; --overwrite replaces results")
    if url is None:
        if model is not None:
            raise typer.BadParameter(
                "--model is one of a server's: give its --url, or --checkpoint"
            )
        from flowmo.cli.generate_here import generate_here
        from flowmo.cli.local_backend import DEMO_MODEL, DEMO_PRIOR

        if prior is None and checkpoint not in (None, DEMO_MODEL):
            raise typer.BadParameter(
                f"the prior that comes with the package is of {DEMO_MODEL}: name that of "
                f"{checkpoint} with --prior"
            )
        made = generate_here(
            wish,
            prior or DEMO_PRIOR,
            checkpoint,
            preset=preset,
            device=device,
            dtype=dtype,
            threads=threads,
            batch_size=batch_size,
        )
    else:
        if prior is not None or checkpoint is not None or preset is not None:
            raise typer.BadParameter(
                "--prior, --checkpoint and --preset are for models here, --url is for a server: "
                "give one"
            )
        from flowmo.cli.generate_there import generate_there

        made = generate_there(wish, url, api_key=api_key, model=model)
    _write(made, out, wish, write)


def _kept(tokens: Path | None, keep: str | None) -> "tuple[Container | None, list[bool] | None]":
    from flowmo.model.container import Container

    if (tokens is None) != (keep is None):
        raise typer.BadParameter("--tokens and --keep go together: which tokens, and who stays")
    if tokens is None or keep is None:
        return None, None
    container = Container.from_bytes(tokens.read_bytes())
    length = container.tokens.code_length
    mask = [False] * length
    for part in keep.split(","):
        first, _, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            low, high = -1, -1
        if not 0 <= low <= high < length:
            raise typer.BadParameter(
                f"--keep is numbers and ranges of 0 to {length - 1}, as in 0-31,40; got {part!r}"
            )
        mask[low : high + 1] = [True] * (high + 1 - low)
    return container, mask


def _names(wish: Wish, seed: int) -> str:
    # A class may be called anything.
    kind = "".join(c if c.isalnum() or c in "._" else "_" for c in wish.class_ or "none")
    return f"{kind}-{seed}"


def _targets(out: Path, wish: Wish, write: Write) -> list[Path]:
    names = [_names(wish, wish.seed + index) for index in range(wish.count)]
    pictures = [] if write is Write.TOKENS else [out / f"{name}.{wish.format}" for name in names]
    tokens = [] if write is Write.PICTURES else [out / f"{name}{FILE_SUFFIX}" for name in names]
    return pictures + tokens


def _write(made: Iterator[Made], out: Path, wish: Wish, write: Write) -> None:
    from flowmo.model.files import write_file

    for one in made:
        files = {}
        if write is not Write.PICTURES:
            files[out / f"{_names(wish, one.seed)}{FILE_SUFFIX}"] = one.container
        if one.picture is not None:
            files[out / f"{_names(wish, one.seed)}.{wish.format}"] = one.picture
        for path, data in files.items():
            try:
                out.mkdir(parents=True, exist_ok=True)
                write_file(path, data, flush_to_disk=False)
            except OSError as error:
                raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        typer.echo(f"seed {one.seed} → {', '.join(shown(path) for path in files)}")
