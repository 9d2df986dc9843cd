"""The folder of an evaluation: what was asked, and one file a shard and method.

A file has its name only when it is whole, so processes share nothing but the folder, and a killed
evaluation goes on with the files that are missing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from flowmo.model.files import write_file
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.moments import Moments

_SETTINGS, _SHARDS = "settings.json", "shards"
_FEATURES, _SHOWN, _TOTAL, _PRODUCTS = "features.", "shown.", "total.", "products."


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Figures of one picture; all None but the name for the originals themselves."""

    number: int
    name: str
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardResult:
    """What one method did with one shard.

    Attributes:
        rows: The rows of the pictures that it has.
        features: by network, float32 [len(rows), F].
        shown: The original and what came of a few pictures, as WebP files, by number.
        unreadable: names of pictures that do not decode.
        moments: Sums of features by network, where those of many pictures are not kept.
    """

    rows: list[Row]
    features: dict[str, Tensor]
    shown: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    moments: dict[str, Moments] = field(default_factory=dict)


class Store:
    """Reads and writes the folder.

    Args:
        folder: The folder of the evaluation; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, settings: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        """Begin, or go on with what was begun.

        Args:
            settings: all that figures depend on, JSON-safe.
            notes: what the report should say beside.

        Raises:
            EvaluationError: the folder is of other settings; the message lists which differ.
        """
        asked = json.loads(json.dumps(settings))
        path = self.folder / _SETTINGS
        if path.exists():
            if changes := _differences(self.settings(), asked):
                raise EvaluationError(
                    f"{self.folder} holds an evaluation of other settings: {'; '.join(changes)}. "
                    f"Take another folder, or delete this one"
                )
            return
        content = {"settings": asked, "notes": notes}
        write_file(path, (json.dumps(content, indent=2) + "\n").encode())

    def settings(self) -> dict[str, Any]:
        """What was asked.

        Raises:
            EvaluationError: the folder is none of an evaluation.
        """
        return self._content("settings")

    def notes(self) -> dict[str, Any]:
        """What was noted when the evaluation began.

        Raises:
            EvaluationError: the folder is none of an evaluation.
        """
        return self._content("notes")

    def _content(self, part: str) -> dict[str, Any]:
        try:
            text = (self.folder / _SETTINGS).read_text(encoding="utf-8")
            found: dict[str, Any] = json.loads(text)[part]
        except (OSError, ValueError, KeyError) as error:
            raise EvaluationError(
                f"{self.folder} is no folder of an evaluation ({error!r})"
            ) from None
        return found

    def path(self, method: str, shard: int) -> Path:
        """Of the result of a method for a shard."""
        return self.folder / _SHARDS / f"{slug(method)}.{shard:06d}.safetensors"

    def write(self, method: str, shard: int, result: ShardResult) -> None:
        """Write a result, whole or not at all."""
        tensors = {_FEATURES + name: t.contiguous() for name, t in result.features.items()}
        for number, pair in result.shown.items():
            for which, data in zip(("original", "came"), pair, strict=True):
                tensors[f"{_SHOWN}{number}.{which}"] = torch.from_numpy(
                    np.frombuffer(data, np.uint8).copy()
                )
        for name, sums in result.moments.items():
            tensors |= {_TOTAL + name: sums.total, _PRODUCTS + name: sums.products}
        metadata = {
            "counts": json.dumps({name: sums.count for name, sums in result.moments.items()}),
            "rows": json.dumps([asdict(row) for row in result.rows]),
            "unreadable": json.dumps(result.unreadable),
        }
        write_file(self.path(method, shard), save(tensors, metadata))

    def read(self, method: str, shard: int) -> ShardResult:
        """Read a result."""
        features, shown, moments = {}, {}, {}
        with safe_open(self.path(method, shard), framework="pt") as opened:
            metadata = opened.metadata()
            rows = [Row(**row) for row in json.loads(metadata["rows"])]
            unreadable = json.loads(metadata["unreadable"])
            for key in opened.keys():  # noqa: SIM118 (no mapping)
                if key.startswith(_FEATURES):
                    features[key.removeprefix(_FEATURES)] = opened.get_tensor(key)
                elif key.startswith(_TOTAL):
                    name = key.removeprefix(_TOTAL)
                    moments[name] = Moments(
                        count=json.loads(metadata["counts"])[name],
                        total=opened.get_tensor(key),
                        products=opened.get_tensor(_PRODUCTS + name),
                    )
                elif key.endswith(".came"):
                    number = int(key.split(".")[1])
                    pair = (f"{_SHOWN}{number}.{which}" for which in ("original", "came"))
                    first, second = (opened.get_tensor(k).numpy().tobytes() for k in pair)
                    shown[number] = first, second
        return ShardResult(
            rows=rows, features=features, shown=shown, unreadable=unreadable, moments=moments
        )


def slug(name: str) -> str:
    """A method's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{where} was {before!r} and is now {now!r}"]
    prefix = f"{where}." if where else ""
    found = [f"{prefix}{key} is gone" for key in before if key not in now]
    found += [f"{prefix}{key} is new" for key in now if key not in before]
    for key in before.keys() & now.keys():
        found += _differences(before[key], now[key], prefix + key)
    return sorted(found)
