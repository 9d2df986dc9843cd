"""A teacher's samples on disk: one slot a position of the data, filled as they are made.

    FOLDER/cache.json      whose samples they are
           samples.uint8   [slots, 3, S, S], 8 bits a value; sparse until it is filled
           filled.uint8    [slots], 1 where the slot holds a sample

A sample is written before its mark, so a crash costs a sample and never leaves a wrong one. Several
processes may fill it at the same time.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowmo.imaging.tensors import to_levels, to_model_range
from flowmo.model.errors import ConfigError
from flowmo.model.files import replacing_file

_RECORD, _SAMPLES, _FILLED = "cache.json", "samples.uint8", "filled.uint8"


class TeacherCache:
    """The slots of a folder.

    Args:
        folder: made if it does not exist.
        slots: how many samples there can be.
        size: S, side of the images in pixels.
        identity: what decides the samples, JSON-safe; another cache's folder is refused.

    Raises:
        ConfigError: the folder holds samples of something else.
    """

    def __init__(
        self, folder: str | Path, *, slots: int, size: int, identity: Mapping[str, Any]
    ) -> None:
        folder = Path(folder)
        record = {"slots": slots, "size": size, **identity}
        folder.mkdir(parents=True, exist_ok=True)
        self._check(folder / _RECORD, record)
        shape = (slots, 3, size, size)
        self._samples = np.memmap(
            _sized(folder / _SAMPLES, int(np.prod(shape))), np.uint8, "r+", shape=shape
        )
        self._filled = np.memmap(_sized(folder / _FILLED, slots), np.uint8, "r+", shape=(slots,))

    @staticmethod
    def _check(path: Path, record: Mapping[str, Any]) -> None:
        if not path.exists():
            with replacing_file(path) as partial:
                partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}); delete the folder") from error
        different = sorted(k for k in record.keys() | found.keys() if record.get(k) != found.get(k))
        if different:
            raise ConfigError(
                f"{path.parent} holds the samples of another distillation; different are "
                f"{', '.join(different)}. Choose another distill.cache, or delete it"
            )

    def __len__(self) -> int:
        """Filled slots."""
        return int(np.count_nonzero(self._filled))

    def read(self, slots: Sequence[int]) -> tuple[Tensor, list[int]]:
        """What is kept of some slots.

        Returns:
            float32 [B, 3, S, S] in [-1, 1], and which of its rows are not filled yet.
        """
        rows = torch.from_numpy(self._samples[list(slots)])
        missing = [i for i, slot in enumerate(slots) if not self._filled[slot]]
        return to_model_range(rows), missing

    def write(self, slots: Sequence[int], samples: Tensor) -> Tensor:
        """Keep samples [B, 3, S, S] in [-1, 1]; returns them as they are kept, in 8 bits."""
        levels = to_levels(samples.cpu())
        self._samples[list(slots)] = levels.numpy()
        self._samples.flush()
        self._filled[list(slots)] = 1
        return to_model_range(levels)


def _sized(path: Path, size: int) -> Path:
    """The file, made sparse where it is not there yet."""
    with path.open("ab") as file:
        if file.tell() < size:
            file.truncate(size)
    return path
