"""Images to a data set of tokens: what ``flowmo tokenize-dataset`` does."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowmo.model.errors import ConfigError
from flowmo.model.inference import InferenceModel
from flowmo.model.prior.config import MAX_GROUP_BITS
from flowmo.training.data.index import ImageIndex
from flowmo.training.data.tokens.labels import read_labels
from flowmo.training.data.tokens.parts import FORMAT_VERSION, Parts
from flowmo.training.data.tokens.stages import encode_squares, read_squares

DEFAULT_PART_SIZE = 1024
DEFAULT_BATCH_SIZE = 16
DEFAULT_MAX_UNREADABLE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenized:
    """What there is now.

    Attributes:
        folder: The data set.
        rows: The number of its rows.
        classes: The number of its classes.
        unreadable: The names of images that are not in it.
        written: The number of parts that this call encoded; 0 where all were there.
    """

    folder: Path
    rows: int
    classes: int
    unreadable: tuple[str, ...]
    written: int


def tokenize_dataset(
    model: InferenceModel,
    sources: Sequence[str],
    out: Path,
    *,
    labels: str = "none",
    flips: bool = False,
    batch_size: int = DEFAULT_BATCH_SIZE,
    part_size: int = DEFAULT_PART_SIZE,
    max_unreadable: int = DEFAULT_MAX_UNREADABLE,
    index_cache: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tokenized:
    """Encode images into a data set of tokens; one that is half done is continued.

    Args:
        model: The tokenizer.
        sources: Folders, images, tars, patterns, URLs and data sets, as
            :class:`flowmo.training.config.DataConfig` has them.
        out: The data set's folder.
        labels: Where classes come from (:func:`flowmo.training.data.tokens.labels.read_labels`).
        flips: Whether each image's mirror image has a row of its own.
        batch_size: The number of rows that are encoded at once.
        part_size: The number of images that are written at once.
        max_unreadable: How many images may be left out because they cannot be read.
        index_cache: The folder that keeps indexes of tars; None keeps none.
        progress: Is notified of (images done, images in all) after each part.

    Raises:
        ConfigError: The model has no tokens, or ``out`` is of another data set.
        DataError: Images or labels cannot be read.
    """
    config = model.config
    if config.quantizer != "lfq" or config.group_bits > MAX_GROUP_BITS:
        raise ConfigError(
            f"model {config.name!r} has no ids of at most {MAX_GROUP_BITS} bits; use a tokenizer "
            f"with quantizer='lfq'"
        )
    if batch_size < 1 or part_size < 1:
        raise ConfigError(f"sizes must be at least 1, got batch {batch_size}, part {part_size}")
    index = ImageIndex(sources, cache=index_cache)
    found = read_labels(labels, index, sources)
    parts = Parts(
        out,
        {
            "format_version": FORMAT_VERSION,
            "tokenizer": model.fingerprint,
            "code_length": config.code_length,
            "token_bits": config.token_bits,
            "group_bits": config.group_bits,
            "image_size": config.image_size,
            "images": len(index),
            "names_sha256": _digest(index),
            "labels": labels,
            "labels_sha256": found.digest(),
            "flips": flips,
            "batch_size": batch_size,
            "part_size": part_size,
        },
        count=-(-len(index) // part_size),
    )
    missing = [] if parts.is_finished else parts.missing()
    if not parts.is_finished:
        parts.begin()
        for number in missing:
            numbers = range(number * part_size, min((number + 1) * part_size, len(index)))
            squares = read_squares(index, numbers, config.image_size)
            rows = encode_squares(model, squares, flips=flips, batch_size=batch_size)
            parts.write(number, rows, squares.unreadable)
            if progress is not None:
                progress(numbers.stop, len(index))
        parts.join(index.name, found, max_unreadable=max_unreadable)
    index.close()
    record = parts.record()
    return Tokenized(
        folder=out,
        rows=record["rows"],
        classes=record["classes"],
        unreadable=tuple(record["unreadable"]),
        written=len(missing),
    )


def _digest(index: ImageIndex) -> str:
    digest = hashlib.sha256()
    for i in range(len(index)):
        digest.update(index.name(i).encode() + b"\0")
    return digest.hexdigest()
