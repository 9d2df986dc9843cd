"""Batch sizes that are compiled: the one place that builds, runners and commands take them from."""

from flowmo.model.errors import ConfigError


def powers_of_two(most: int) -> tuple[int, ...]:
    """The powers of two below ``most``, and ``most`` itself.

    Between them padding costs less than a kernel.
    """
    below = tuple(2**i for i in range(most.bit_length()) if 2**i < most)
    return (*below, most)


# By the largest batch that is worth it: latency for single users, throughput for data sets.
PROFILES: dict[str, tuple[int, ...]] = {
    "latency": powers_of_two(4),
    "serving": powers_of_two(16),
    "throughput": powers_of_two(64),
}
DEFAULT_PROFILE = "serving"


def profile_of(name: str) -> tuple[int, ...]:
    """The batch sizes of a named profile, ascending.

    Raises:
        ConfigError: No profile has this name.
    """
    if name not in PROFILES:
        raise ConfigError(f"profile must be one of {sorted(PROFILES)}, got {name!r}")
    return PROFILES[name]
