"""The stage that writes: parts that appear whole, and the data set that they are joined to.

    DEST/parts/plan.json      what is being written; another plan is refused
         parts/00007.npz      ids, images, flips and unreadable images of one part
    DEST/ids.npy              uint16 [rows, K D/G], to be mapped into memory
         labels.npy           int32 [rows], the class; -1 for none
         rows.jsonl           a line a row: the image's name, whether it is mirrored
         dataset.json         what the data set is; it is there when all of it is

Parts depend on the plan and their number alone, so whoever is killed goes on with the next part,
several processes may write different ones, and the bytes of the data set are always the same.
"""

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from flowmo.model.errors import ConfigError
from flowmo.model.files import replacing_contents, write_file
from flowmo.training.data.tokens.labels import Labels
from flowmo.training.data.tokens.stages import Rows
from flowmo.training.errors import DataError

FORMAT_VERSION = 1
DATASET_FILE = "dataset.json"
IDS_FILE = "ids.npy"
LABELS_FILE = "labels.npy"
ROWS_FILE = "rows.jsonl"


class Parts:
    """The unfinished form of a data set of tokens.

    Args:
        folder: DEST.
        plan: All that the ids depend on, JSON-safe.
        count: The number of parts.

    Raises:
        ConfigError: DEST holds, or has begun, another data set.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], count: int) -> None:
        self.folder, self.plan, self.count = folder, plan, count
        self._parts = folder / "parts"
        if (folder / DATASET_FILE).exists():
            _check_same(folder / DATASET_FILE, plan)
        elif (self._parts / "plan.json").exists():
            _check_same(self._parts / "plan.json", plan)
        elif folder.exists() and any(folder.iterdir()) and not self._parts.exists():
            raise ConfigError(f"{folder} holds something else than tokens; choose an empty folder")

    @property
    def is_finished(self) -> bool:
        """Whether the data set is there, whole."""
        return (self.folder / DATASET_FILE).exists()

    def record(self) -> dict[str, Any]:
        """What ``dataset.json`` says, once the data set is there."""
        found: dict[str, Any] = json.loads((self.folder / DATASET_FILE).read_text("utf-8"))
        return found

    def missing(self) -> list[int]:
        """The numbers of the parts that are still to be written."""
        return [number for number in range(self.count) if not self._path(number).exists()]

    def begin(self) -> None:
        """Say what is being written."""
        text = json.dumps(self.plan, indent=2) + "\n"
        write_file(self._parts / "plan.json", text.encode())

    def write(self, number: int, rows: Rows, unreadable: Sequence[int]) -> None:
        """Write a part, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        buffer = io.BytesIO()
        np.savez(
            buffer,
            ids=rows.ids,
            images=rows.images,
            flipped=rows.flipped,
            unreadable=np.array(unreadable, dtype=np.int64),
        )
        write_file(self._path(number), buffer.getvalue())

    def join(self, name: Callable[[int], str], labels: Labels, *, max_unreadable: int) -> None:
        """Make the data set of all parts, and delete these.

        Args:
            name: The name of an image.
            labels: The classes of all images.
            max_unreadable: How many images may be missing.

        Raises:
            DataError: More images could not be read.
        """
        described = ("images", "flipped", "unreadable")
        loaded = [self._load(number, *described) for number in range(self.count)]
        unreadable = [int(i) for part in loaded for i in part["unreadable"]]
        if len(unreadable) > max_unreadable:
            raise DataError(
                f"{len(unreadable)} images cannot be read, more than {max_unreadable}, among them "
                f"{', '.join(map(name, unreadable[:5]))}; mend or leave them out, delete "
                f"{self._parts}, and start again"
            )
        images = np.concatenate([part["images"] for part in loaded])
        flipped = np.concatenate([part["flipped"] for part in loaded])
        record = {
            **self.plan,
            "rows": len(images),
            "classes": labels.classes,
            "class_names": list(labels.names),
            "unreadable": [name(i) for i in unreadable],
        }
        if not len(images):
            raise DataError(f"none of the {len(unreadable)} images can be read")
        with replacing_contents(self.folder, key=DATASET_FILE) as new:
            length = self._load(0, "ids")["ids"].shape[1]
            shape = (len(images), length)
            ids = open_memmap(new / IDS_FILE, mode="w+", dtype=np.uint16, shape=shape)
            first = 0
            for number in range(self.count):
                rows = self._load(number, "ids")["ids"]
                ids[first : first + len(rows)] = rows
                first += len(rows)
            ids.flush()
            numbers = np.array(labels.numbers, dtype=np.int32)
            np.save(new / LABELS_FILE, numbers[images])
            with (new / ROWS_FILE).open("w", encoding="utf-8") as file:
                for image, mirrored in zip(images.tolist(), flipped.tolist(), strict=True):
                    file.write(json.dumps({"key": name(image), "flipped": mirrored}) + "\n")
            (new / DATASET_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(self._parts)

    def _path(self, number: int) -> Path:
        return self._parts / f"{number:05d}.npz"

    def _load(self, number: int, *names: str) -> dict[str, Any]:
        with np.load(self._path(number), allow_pickle=False) as part:
            return {name: part[name] for name in names}


def _check_same(path: Path, plan: dict[str, Any]) -> None:
    there = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name, value in plan.items() if there.get(name) != value]
    if different:
        listed = ", ".join(f"{name}: {there.get(name)!r}" for name in different)
        raise ConfigError(
            f"{path.parent} is of another data set ({listed}); choose another --out, or delete it"
        )
