"""``flowmo tokenize-dataset``: images to ids on disk, which a prior is trained on."""

from pathlib import Path
from typing import Annotated

import typer


def tokenize_dataset_command(
    sources: Annotated[
        list[str],
        typer.Argument(help="Folders, images, tars, patterns, URLs or hf: data sets of images."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set of tokens.")],
    checkpoint: Annotated[
        str, typer.Option(help="Tokenizer: a checkpoint folder or hub repository.")
    ] = "tiny",
    labels: Annotated[
        str,
        typer.Option(
            help="The images' classes: none, folder (the name of the folder or tar), column:NAME "
            "(of a data set), or a JSON file of classes by the images' names."
        ),
    ] = "none",
    flips: Annotated[
        bool, typer.Option("--flips", help="Also encode each image's mirror image.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images that are encoded at once.", min=1)] = 16,
    part_size: Annotated[
        int,
        typer.Option(help="Images that are written at once, and lost by a stop.", min=1),
    ] = 1024,
    device: Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")] = "auto",
) -> None:
    """Encode images into a data set of tokens, to train a prior on; after a stop it goes on."""
    from flowmo.model.loading import load_inference_model
    from flowmo.training.config import DEFAULT_INDEX_CACHE
    from flowmo.training.data.tokens.tokenize import tokenize_dataset

    model = load_inference_model(checkpoint, device=device, halves=("encoder",))
    done = tokenize_dataset(
        model,
        sources,
        out,
        labels=labels,
        flips=flips,
        batch_size=batch_size,
        part_size=part_size,
        index_cache=DEFAULT_INDEX_CACHE,
        progress=lambda n, of: typer.echo(f"{n} of {of} images", err=True),
    )
    for name in done.unreadable:
        typer.echo(f"left out, unreadable: {name}", err=True)
    typer.echo(
        f"{done.folder}: {done.rows} rows of {model.config.code_length} tokens, "
        f"{done.classes} classes, tokenizer {model.fingerprint}"
    )
