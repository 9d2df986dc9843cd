"""Batch sizes that are compiled: the one place that builds, runners and commands take them from."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.errors import ConfigError


def powers_of_two(most: int) -> tuple[int, ...]:
    """Powers of two below ``most``, and itself: between them padding costs less than a kernel."""
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
    """Batch sizes of a named profile, ascending.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PROFILES:
        raise ConfigError(f"profile must be one of {sorted(PROFILES)}, got {name!r}")
    return PROFILES[name]


def in_buckets(
    compute: Callable[..., Tensor], buckets: Sequence[int], inputs: Sequence[Tensor]
) -> Tensor:
    """Compute any number of rows with a function that takes certain numbers only.

    Args:
        compute: of inputs of one of the batch sizes.
        buckets: ascending.
        inputs: [B, …] each; B at least 1. What is missing to a bucket is filled with zeros.
    """
    rows, most = inputs[0].shape[0], buckets[-1]
    if rows > most:
        parts = zip(*(value.split(most) for value in inputs), strict=True)
        # Copies, because a function may give the same memory each time.
        return torch.cat([in_buckets(compute, buckets, part).clone() for part in parts])
    missing = next(bucket for bucket in buckets if bucket >= rows) - rows
    if missing:
        inputs = [F.pad(value, (0, 0) * (value.ndim - 1) + (0, missing)) for value in inputs]
    return compute(*inputs)[:rows]
