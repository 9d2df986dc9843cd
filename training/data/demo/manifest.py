"""Settings of a data set, and the record of what it holds and where that comes from."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from flowmo.model.errors import ConfigError
from flowmo.model.strict import to_dict
from flowmo.training.data.demo.parts import Part

MANIFEST = "manifest.json"

Form = Literal["crops", "pictures"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoDataConfig:
    """Settings of the demo data set.

    Args:
        size: side of the crops, pixels.
        form: ``crops`` are cut once, here; ``pictures`` are whole ones, shrunk, of which training
            cuts crops of ``size`` pixels anew each time.
        quality: The quality of the WebP files, 0 ... 100.
        part_bytes: no tar is larger.
        seed: The seed of crops, backgrounds of cut-outs, and order.

    Raises:
        ConfigError: a value out of range.
    """

    size: int = 256
    form: Form = "crops"
    quality: int = 90
    part_bytes: int = 45_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 2048:
            raise ConfigError(f"size is {self.size}; crops have a side of 16 to 2048 pixels")
        if self.form not in get_args(Form):
            raise ConfigError(f"form is {self.form!r}; it is one of {', '.join(get_args(Form))}")
        if not 0 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; WebP's goes from 0 to 100")
        if self.part_bytes < 1:
            raise ConfigError(f"part_bytes is {self.part_bytes}; it must be positive")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageRecord:
    """A package that was used.

    ``version`` is what was used, ``chosen_on`` the version on which its pictures were chosen by
    eye. ``copyright`` is the file of the data set that holds its terms, None if it had none.
    """

    name: str
    version: str
    chosen_on: str
    sha256: str
    copyright: str | None
    pictures: int
    crops: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRecord:
    """A picture that gave crops; sizes in pixels."""

    package: str
    path: str
    width: int
    height: int
    crops: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a data set holds and where it comes from.

    ``crops`` has a row (index in ``pictures``, x, y, side in the picture's pixels) for each image,
    in the order of the images' names; the side of a whole picture is 0. ``held_out`` names the
    files of the folder ``held-out`` and the packages they are of. The ``dropped_`` fields count
    pictures and crops that were not kept, by reason; ``skipped_packages`` says why a package was
    not had.
    """

    fingerprint: str
    settings: DemoDataConfig
    packages: tuple[PackageRecord, ...]
    skipped_packages: dict[str, str]
    pictures: tuple[PictureRecord, ...]
    held_out: dict[str, str]
    dropped_pictures: dict[str, int]
    dropped_crops: dict[str, int]
    parts: tuple[Part, ...]
    crops: tuple[tuple[int, int, int, int], ...] = field(repr=False)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``, an object with these fields."""
        text = json.dumps(to_dict(self), separators=(",", ":"))
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def is_up_to_date(folder: Path, fingerprint: str) -> bool:
    """Whether a folder holds a complete data set of that fingerprint."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["fingerprint"] == fingerprint and all(
            (folder / part["name"]).stat().st_size == part["size"] for part in manifest["parts"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
