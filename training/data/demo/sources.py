"""The packages and files that ``sources.toml`` names."""

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from flowmo.model.errors import ConfigError
from flowmo.model.strict import from_dict
from flowmo.training.data.demo.pictures import PictureKind

_FILE = Path(__file__).with_name("sources.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Files of one package that are treated alike.

    Args:
        include: patterns as of :mod:`fnmatch` for whole paths in the package; a ``*`` also spans
            folders.
        exclude: patterns for paths to leave out again.
        kind: ``photograph``, or ``cutout`` for things on a transparent ground.
        most_crops: crops of one picture at most.
    """

    include: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    kind: PictureKind = "photograph"
    most_crops: int = 230

    def __post_init__(self) -> None:
        if not self.include or self.most_crops < 1:
            raise ConfigError(
                "a selection needs at least one pattern and room for one crop; got "
                f"include={self.include}, most_crops={self.most_crops}"
            )

    def matches(self, path: str) -> bool:
        """Whether a file belongs to this selection."""
        return any(fnmatchcase(path, pattern) for pattern in self.include) and not any(
            fnmatchcase(path, pattern) for pattern in self.exclude
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePackage:
    """A Debian package with photographs, and the version that its selections were made on."""

    name: str
    version: str
    selections: tuple[Selection, ...]
    held_out: bool = False
    """Whether its pictures are for judging models only, and never trained on."""

    def selection(self, path: str) -> Selection | None:
        """The first selection that a file belongs to, if any."""
        return next((s for s in self.selections if s.matches(path)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SourceFile:
    packages: tuple[SourcePackage, ...]


def read_sources(path: Path = _FILE) -> tuple[SourcePackage, ...]:
    """The packages of a file like ``sources.toml``, in its order.

    Raises:
        ConfigError: not TOML, an unknown or missing field, or a package named twice.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    packages = from_dict(_SourceFile, data).packages
    if len({package.name for package in packages}) < len(packages):
        raise ConfigError(f"{path} names a package twice; give it several selections instead")
    return packages
