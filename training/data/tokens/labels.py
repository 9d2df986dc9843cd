"""Which class each image is of: by its folder, a JSON file, or a column of its data set."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowmo.training.data.index import ImageIndex
from flowmo.training.data.sources.hugging_face import is_dataset, read_column
from flowmo.training.errors import DataError

COLUMN = "column:"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The classes of images.

    Attributes:
        numbers: The class of each image; -1 for none.
        names: The classes' names in order; empty where they have none.
    """

    numbers: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.names) or max(self.numbers, default=-1) + 1

    def digest(self) -> str:
        """What tells these labels from others."""
        text = json.dumps([self.numbers, self.names])
        return hashlib.sha256(text.encode()).hexdigest()


def read_labels(spec: str, index: ImageIndex, paths: Sequence[str]) -> Labels:
    """The labels of all images of an index.

    Args:
        spec: ``none``; ``folder``: the name of the folder or tar that an image lies in;
            ``column:NAME`` of Hugging Face data sets; or a JSON file that gives each image's class,
            a name or a number from 0 on, by the image's name, the end of its path, or its file
            name.
        index: The images.
        paths: What the index was made of.

    Raises:
        DataError: A label is missing or of a wrong form.
    """
    if spec == "none":
        return Labels(numbers=(-1,) * len(index), names=())
    if spec == "folder":
        return _named([folder_of(index.name(i)) for i in range(len(index))])
    if spec.startswith(COLUMN):
        return _of_column(spec.removeprefix(COLUMN), paths)
    return _of_file(Path(spec), index)


def folder_of(name: str) -> str:
    """The folder or tar, without its suffix, that an image of an index lies in."""
    head, _, file = name.rpartition("/")
    # "container:member" for what lies in a source; a member at its top has the container's name.
    holder = file.rpartition(":")[0] if ":" in file else head.rpartition("/")[2].rpartition(":")[2]
    return holder.removesuffix(".tar")


def _named(labels: Sequence[str]) -> Labels:
    names = tuple(sorted(set(labels)))
    numbers = {name: number for number, name in enumerate(names)}
    return Labels(numbers=tuple(numbers[label] for label in labels), names=names)


def _of_column(column: str, paths: Sequence[str]) -> Labels:
    if other := [path for path in paths if not is_dataset(path)]:
        raise DataError(
            f"labels of a column are those of Hugging Face data sets (hf:...), and {other[0]} is "
            f"none; use --labels folder or a JSON file"
        )
    columns = [read_column(path, column) for path in paths]
    names = columns[0].names
    if any(one.names != names for one in columns):
        raise DataError(f"the data sets have different classes in their column {column!r}")
    values = [value for one in columns for value in one.values]
    if names:
        return Labels(numbers=tuple(int(str(value)) for value in values), names=names)
    return _of_values(values, f"column {column!r}")


def _of_file(path: Path, index: ImageIndex) -> Labels:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"--labels takes none, folder, {COLUMN}NAME or a JSON file, and {path} cannot be read "
            f"as one: {error}"
        ) from error
    if not isinstance(given, dict):
        raise DataError(f'{path} must be an object of labels by name, {{"a.jpg": "cat", ...}}')
    labels = [_find(given, index.name(i)) for i in range(len(index))]
    missing = [index.name(i) for i, label in enumerate(labels) if label is None]
    if missing:
        raise DataError(
            f"{path} has no label for {len(missing)} of {len(index)} images, such as "
            f"{', '.join(missing[:_SHOWN])}"
        )
    return _of_values(labels, str(path))


def _find(given: Mapping[str, object], name: str) -> object:
    member = name.rpartition(":")[2]
    for key in (name, member, member.rpartition("/")[2]):
        if key in given:
            return given[key]
    return None


def _of_values(values: Sequence[object], source: str) -> Labels:
    if all(isinstance(value, str) for value in values):
        return _named([str(value) for value in values])
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise DataError(
                f"labels must all be names, or all numbers from 0 on; {source} has {value!r}"
            )
    return Labels(numbers=tuple(int(str(value)) for value in values), names=())
