"""Data sets of tokens as training data: rows by position, mapped into memory."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmo.model.errors import ConfigError
from flowmo.model.prior.config import PriorConfig, for_tokens
from flowmo.training.data.tokens.parts import (
    DATASET_FILE,
    FORMAT_VERSION,
    IDS_FILE,
    LABELS_FILE,
)
from flowmo.training.errors import DataError

_ORDER_STREAM = 0
_ALIKE = ("tokenizer", "code_length", "token_bits", "group_bits", "classes", "class_names")


class TokenRows(NamedTuple):
    """Ids int64 [B, N] and classes int64 [B], -1 for none."""

    ids: Tensor
    labels: Tensor


class TokenBatch(NamedTuple):
    """The rows of one step; tokens that were written can be read."""

    rows: TokenRows
    unreadable: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDataset:
    """Rows of ids in one or several folders, which nothing has been read of yet.

    Attributes:
        folders: Where they are.
        record: What ``dataset.json`` of all of them says.
        ids: Memory maps uint16 [rows, N], one for each folder.
        labels: int32 [rows] over all folders, -1 for none.
        images: The number of images; a mirror image is none of its own.
        times: Rows of each image: 2 with mirror images, each after its image.
    """

    folders: tuple[Path, ...]
    record: dict[str, Any]
    ids: tuple[NDArray[np.uint16], ...]
    labels: NDArray[np.int32]
    times: int

    @property
    def images(self) -> int:
        """The number of images; a mirror image is none of its own."""
        return len(self.labels) // self.times

    @classmethod
    def open(cls, paths: Sequence[str]) -> "TokenDataset":
        """Open folders that ``flowmo tokenize-dataset`` wrote.

        Args:
            paths: The folders; all of one tokenizer and with the same classes.

        Raises:
            DataError: One is missing, unfinished or damaged, or they do not fit together.
        """
        if not paths:
            raise DataError(
                "no tokens were given: write them with `flowmo tokenize-dataset photos/ --out "
                "tokens/`, and name the folder with --data tokens/"
            )
        folders = tuple(Path(path).expanduser() for path in paths)
        records = [_read_record(folder) for folder in folders]
        for folder, record in zip(folders, records, strict=True):
            for name in (*_ALIKE, "flips"):
                if record[name] != records[0][name]:
                    raise DataError(
                        f"{folder} and {folders[0]} do not go together: their {name} are "
                        f"{record[name]!r} and {records[0][name]!r}; make both with the same "
                        f"tokenizer, labels and flips"
                    )
        ids, labels = [], []
        for folder, record in zip(folders, records, strict=True):
            try:
                ids.append(np.load(folder / IDS_FILE, mmap_mode="r", allow_pickle=False))
                labels.append(np.load(folder / LABELS_FILE, allow_pickle=False))
            except (OSError, ValueError) as error:
                raise DataError(f"{folder} is damaged ({error}); write it again") from error
            length = record["code_length"] * record["token_bits"] // record["group_bits"]
            if ids[-1].shape != (record["rows"], length) or len(labels[-1]) != record["rows"]:
                raise DataError(
                    f"{folder} has ids {ids[-1].shape} and {len(labels[-1])} labels where "
                    f"{DATASET_FILE} says {record['rows']} rows of {length}; write it again"
                )
        return cls(
            folders=folders,
            record=records[0],
            ids=tuple(ids),
            labels=np.concatenate(labels),
            times=2 if records[0]["flips"] else 1,
        )

    def prior_config(self, config: PriorConfig) -> PriorConfig:
        """The config of a prior for these tokens (:func:`flowmo.model.prior.config.for_tokens`).

        Raises:
            ConfigError: The prior was made for other tokens.
        """
        fields = {name: self.record[name] for name in _ALIKE}
        return for_tokens(config, **fields | {"class_names": tuple(fields["class_names"])})

    def judging(self, config: PriorConfig) -> "TokenDataset":
        """These rows with the numbers that a prior's classes have, for it to be judged on.

        Held-out images have few of the classes, and may have none: then no class is given.

        Args:
            config: The prior, with the classes that it was trained on.

        Raises:
            ConfigError: The tokens are of another tokenizer, or have classes that it knows nothing
                of.
        """
        names = tuple(self.record["class_names"])
        same = (self.record["classes"], names) == (config.classes, config.class_names)
        if self.record["classes"] and not same:
            if not names or (unknown := sorted(set(names) - set(config.class_names))):
                raise ConfigError(
                    f"{self.folders[0]} has classes that the prior {config.name!r} does not: "
                    f"{', '.join(unknown) if names else 'ones without names'}; give it labels "
                    f"by name of {', '.join(config.class_names) or 'no classes'}, or none"
                )
            # The last is what -1 finds.
            numbers = np.array([*(config.class_names.index(one) for one in names), -1], np.int32)
            return replace(self, labels=numbers[self.labels])._of(config)
        return self._of(config)

    def _of(self, config: PriorConfig) -> "TokenDataset":
        own = {"classes": config.classes, "class_names": config.class_names}
        for_tokens(config, **{name: self.record[name] for name in _ALIKE} | own)
        return self

    def rows(self, numbers: Sequence[int]) -> TokenRows:
        """Some rows, as the prior takes them."""
        ends = np.cumsum([len(one) for one in self.ids])
        found = []
        for number in numbers:
            folder = int(np.searchsorted(ends, number, side="right"))
            first = int(ends[folder - 1]) if folder else 0
            found.append(self.ids[folder][number - first])
        ids = np.stack(found).astype(np.int64)
        labels = self.labels[list(numbers)].astype(np.int64)
        return TokenRows(torch.from_numpy(ids), torch.from_numpy(labels))


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / DATASET_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        unfinished = (folder / "parts").is_dir()
        raise DataError(
            f"{folder} holds no tokens: there is no {DATASET_FILE}"
            + (
                ", because `flowmo tokenize-dataset` was stopped; run it again"
                if unfinished
                else "; write some with `flowmo tokenize-dataset IMAGES --out FOLDER`"
            )
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    needed = {*_ALIKE, "rows", "flips", "format_version"}
    if not isinstance(record, dict) or (lacking := needed - record.keys()):
        raise DataError(f"{path} is of no tokens: it lacks {sorted(lacking)}")
    if record["format_version"] != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {record['format_version']!r}, this release reads "
            f"{FORMAT_VERSION}; write it again"
        )
    return record


class TrainingTokens:
    """Rows by position, in an order that seed and epoch decide: the data of a task.

    Args:
        dataset: The rows.
        chosen: The numbers of those to train on.
        seed: The seed of the order.
        batch_size: Rows a step, over all processes.
    """

    def __init__(
        self, dataset: TokenDataset, chosen: NDArray[np.int64], *, seed: int, batch_size: int
    ) -> None:
        self._dataset, self._chosen = dataset, chosen
        self._seed, self._batch_size = seed, batch_size
        self._order_epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._chosen)

    def load(self, report: Any) -> None:
        """Nothing: ids are mapped into memory."""

    def batches(
        self, *, start: int, steps: int, part: tuple[int, int], pin: bool
    ) -> AbstractContextManager[Iterator[TokenBatch]]:
        """The batches of ``steps`` steps; :class:`flowmo.training.tasks.task.TrainingData`."""
        share = self._batch_size // part[1]

        def made() -> Iterator[TokenBatch]:
            for step in range(steps):
                first = start + step * self._batch_size + part[0] * share
                rows = self._dataset.rows([self._at(first + i) for i in range(share)])
                yield TokenBatch(TokenRows(*(x.pin_memory() for x in rows)) if pin else rows)

        return nullcontext(made())

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, len(self))
        if epoch != self._order_epoch:
            generator = np.random.default_rng([self._seed, epoch, 0, _ORDER_STREAM])
            self._order, self._order_epoch = generator.permutation(self._chosen), epoch
        return int(self._order[offset])

    def name(self, index: int) -> str:
        """Where a row is, for messages."""
        return f"row {index} of {', '.join(map(str, self._dataset.folders))}"

    def check_unreadable(self, known: Sequence[int]) -> None:
        """Nothing: tokens that were written can be read."""

    def close(self) -> None:
        """Nothing: the maps end with the process."""
