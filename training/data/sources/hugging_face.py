"""Images of Hugging Face data sets, through ``datasets``.

    hf://owner/name?split=train&column=image&config=default&revision=main    on the hub
    hf:/folder?split=train&column=image                                      on this machine

A local folder is one of ``save_to_disk``, or holds parquet, arrow or image files. Data sets are
Arrow tables that are mapped into memory, so rows are read at any position and by any process;
nothing is streamed. A data set of the hub is downloaded first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

from flowmo.training.data.sources.source import Source
from flowmo.training.errors import DataError

_PREFIX = "hf:"
_HUB = "hf://"
# huggingface_hub's fsspec protocol has the same name and other paths.
_FILES = ("hf://datasets/", "hf://buckets/")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetAddress:
    """Which column of which data set.

    Attributes:
        name: ``owner/name`` on the hub, or a folder.
        on_hub: which of the two.
        split: ``train``, ``train[:10%]`` and the like.
        column: The column of the images; None where only one holds any.
        config: subset of the data set; None where it has one.
        revision: branch, tag or commit on the hub; None is its main branch.
    """

    name: str
    on_hub: bool
    split: str = "train"
    column: str | None = None
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``hf://owner/name?split=...`` or ``hf:folder?split=...``.

        Raises:
            DataError: no name, or an option that there is not.
        """
        on_hub = text.startswith(_HUB)
        name, _, query = text[len(_HUB if on_hub else _PREFIX) :].partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        known = [field.name for field in fields(cls) if field.name not in ("name", "on_hub")]
        if unknown := sorted(set(options) - set(known)):
            raise DataError(f"{text}: no option {', '.join(unknown)}; there are {', '.join(known)}")
        if not name:
            raise DataError(f"{text} names no data set; write hf://owner/name or hf:/folder")
        return cls(name=name, on_hub=on_hub, **options)


def is_dataset(text: str) -> bool:
    """Whether a path is a Hugging Face data set, and no file on the hub."""
    return text.startswith(_PREFIX) and not text.startswith(_FILES)


class HuggingFaceImages(Source):
    """Rows of an image column; the bytes are decoded by us, as those of files.

    Args:
        text: the address, as at the top of this file.

    Raises:
        DataError: the data set, its split or its column cannot be had.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        address = DatasetAddress.parse(text)
        table = _load(address, text)
        self._column = _image_column(table, address.column, text)
        self._table = _encoded(table.select_columns([self._column]), self._column, text)

    def __len__(self) -> int:
        return len(self._table)

    def name(self, i: int) -> str:
        """Data set and row."""
        return f"{self._text}: row {i}"

    def read(self, i: int) -> bytes:
        """Bytes of row ``i``.

        Raises:
            OSError: the row is empty, or names a file that is gone.
        """
        return _bytes(self._table[i][self._column])

    def read_many(self, indices: Sequence[int]) -> list[bytes | None]:
        """Bytes of several rows, in the order of ``indices``."""
        cells = self._table[list(indices)][self._column]
        return [_bytes_or_none(cell) for cell in cells]

    def close(self) -> None:
        """Nothing: the table is mapped memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a data set beside its images.

    Attributes:
        values: The value of each row.
        names: The names of its classes, where the data set has them.
    """

    values: Sequence[object]
    names: tuple[str, ...]


def read_column(text: str, column: str) -> Column:
    """A column that describes the images, such as their labels.

    Args:
        text: The data set's address.
        column: The name of the column.

    Raises:
        DataError: The data set or its column cannot be had.
    """
    table = _load(DatasetAddress.parse(text), text)
    if column not in table.features:
        raise DataError(f"{text}: no column {column!r}; there are {', '.join(table.features)}")
    names = getattr(table.features[column], "names", None)
    return Column(values=list(table[column]), names=tuple(names or ()))


def _load(address: DatasetAddress, text: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{text} needs the library 'datasets': pip install 'flowmo-serve[datasets]'"
        ) from error
    folder = Path(address.name).expanduser()
    if not address.on_hub and not folder.is_dir():
        raise DataError(
            f"{text}: {folder} is no folder; a data set of the hub is written hf://{address.name}"
        )
    # Anything from a missing split to a network that is down; all of it is for the user to mend,
    # and the library says how.
    try:
        if not address.on_hub and (folder / "state.json").is_file():
            return datasets.load_from_disk(str(folder))
        if not address.on_hub and (folder / "dataset_dict.json").is_file():
            return _split(datasets.load_from_disk(str(folder)), address.split, text)
        return datasets.load_dataset(
            address.name if address.on_hub else str(folder),
            name=address.config,
            split=address.split,
            revision=address.revision,
        )
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{text} cannot be loaded: {type(error).__name__}: {error}") from error


def _split(splits: Any, wanted: str, text: str) -> Any:
    if wanted not in splits:
        raise DataError(f"{text}: no split {wanted!r}; there are {', '.join(splits)}")
    return splits[wanted]


def _image_column(table: Any, wanted: str | None, text: str) -> str:
    import datasets

    columns = {name: type(feature).__name__ for name, feature in table.features.items()}
    listed = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
    if wanted is not None:
        if wanted not in columns:
            raise DataError(f"{text}: no column {wanted!r}; there are {listed}")
        return wanted
    images: list[str] = [
        n for n, feature in table.features.items() if isinstance(feature, datasets.Image)
    ]
    if len(images) != 1:
        count = "no column holds" if not images else f"{len(images)} columns hold"
        raise DataError(f"{text}: {count} images; name one with column=...: there are {listed}")
    return images[0]


def _encoded(table: Any, column: str, text: str) -> Any:
    """The table with files' bytes in the column, not pictures that ``datasets`` decodes."""
    import datasets

    try:
        return table.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # as pyarrow has them
        kind = table.features[column]
        raise DataError(f"{text}: column {column!r} holds no images but {kind}") from error


def _bytes(cell: dict[str, Any] | None) -> bytes:
    if cell is not None and cell["bytes"] is not None:
        return bytes(cell["bytes"])
    if cell is None or cell["path"] is None:
        raise FileNotFoundError("the row holds no image")
    return Path(cell["path"]).read_bytes()


def _bytes_or_none(cell: dict[str, Any] | None) -> bytes | None:
    try:
        return _bytes(cell)
    except OSError:
        return None
