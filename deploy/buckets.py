"""Batch sizes that are compiled: the one place that exports, builds and runners take them from."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Buckets:
    """Batch sizes of both halves, ascending.

    Attributes:
        name: what they are good for.
        encoder: pictures.
        decoder: rows; a guided step has two.
    """

    name: str
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    def of(self, half: str) -> tuple[int, ...]:
        """Of ``encoder`` or ``decoder``."""
        sizes: tuple[int, ...] = getattr(self, half)
        return sizes


# Powers of two: between two of them padding costs less than one more kernel would.
PROFILES = {
    profile.name: profile
    for profile in (
        Buckets(name="latency", encoder=(1, 2, 4), decoder=(1, 2, 4)),
        Buckets(name="serving", encoder=(1, 2, 4, 8, 16, 32), decoder=(1, 2, 4, 8, 16)),
        Buckets(
            name="throughput",
            encoder=(1, 2, 4, 8, 16, 32, 64),
            decoder=(1, 2, 4, 8, 16, 32, 64),
        ),
    )
}
DEFAULT_PROFILE = "serving"


def profile_of(name: str) -> Buckets:
    """A named profile.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PROFILES:
        raise ConfigError(f"profile must be one of {sorted(PROFILES)}, got {name!r}")
    return PROFILES[name]


def smallest(buckets: Sequence[int], rows: int) -> int:
    """The smallest bucket that holds so many rows; the largest if none does."""
    return next((bucket for bucket in buckets if bucket >= rows), buckets[-1])
