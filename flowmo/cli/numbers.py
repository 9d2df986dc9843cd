"""Lists of numbers as one writes them on a command line."""

from collections.abc import Callable
from typing import TypeVar

from flowmo.model.errors import ConfigError

Number = TypeVar("Number", int, float)


def numbers(text: str, kind: Callable[[str], Number], option: str) -> list[Number]:
    """Read ``1,2,4`` as numbers; an empty text has none.

    Args:
        text: Numbers with commas between.
        kind: int or float.
        option: The option that has this value, for the error.

    Raises:
        ConfigError: The text is something else.
    """
    try:
        return [kind(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise ConfigError(f"{option} takes numbers as 1,2,4: {error}") from None


def intervals(text: str, option: str) -> list[tuple[float, float]]:
    """Read ``0.17:1.02,0:10`` as pairs; an empty text has none.

    Args:
        text: Pairs with commas between, their two numbers with a colon.
        option: The option that has this value, for the error.

    Raises:
        ConfigError: The text is something else.
    """
    try:
        pairs = [
            tuple(float(n) for n in word.split(":")) for word in text.split(",") if word.strip()
        ]
        return [(low, high) for low, high in pairs]
    except ValueError as error:
        raise ConfigError(f"{option} takes intervals as 0.17:1.02,0:10: {error}") from None
