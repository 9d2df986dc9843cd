"""Checks that configs share, each a ConfigError that names the field."""

import math
from typing import get_args

from flowmo.model.errors import ConfigError


def require(condition: bool, message: str) -> None:
    """Refuse a config unless a condition holds.

    Raises:
        ConfigError: It does not; the message is the one given.
    """
    if not condition:
        raise ConfigError(message)


def one_of(name: str, value: object, options: object) -> None:
    """Check that a value is one of a ``Literal`` type.

    Raises:
        ConfigError: It is not; the message lists those there are.
    """
    choices = get_args(options)
    require(value in choices, f"{name} must be one of {list(choices)}, got {value!r}")


def at_least(low: float, **values: float) -> None:
    """Check that numbers, each given by its field's name, are finite and at least ``low``.

    Raises:
        ConfigError: One is not.
    """
    for name, value in values.items():
        require(
            math.isfinite(value) and value >= low,
            f"{name} must be a number of at least {low:g}, got {value!r}",
        )


def share(**values: float) -> None:
    """Check that numbers, each given by its field's name, lie in 0 ... 1.

    Raises:
        ConfigError: One does not.
    """
    for name, value in values.items():
        require(0.0 <= value <= 1.0, f"{name} must lie in 0 ... 1, got {value!r}")
