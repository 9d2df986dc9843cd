"""Where a run computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flowmo.model.errors import ConfigError
from flowmo.training.config import Precision


def choose_device(name: str) -> torch.device:
    """``auto`` is a GPU if there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here: {error}") from error


@contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Within it, products of float32 matrices are as exact as a run's precision says."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
