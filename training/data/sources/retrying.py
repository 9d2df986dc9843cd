"""Patience with storage that fails for a moment."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from flowmo.training.errors import DataError

T = TypeVar("T")

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt."""

_WORTH_REPEATING = (408, 425, 429)  # of the HTTP statuses that blame the client


def retried(call: Callable[[], T], *, what: str) -> T:
    """The result of ``call``, attempted again while it fails.

    Raises:
        DataError: it failed every time, or in a way that time does not mend.
    """

    def attempt(_: Sequence[int]) -> list[T | Exception]:
        return [call()]

    return retried_many(attempt, 1, what=lambda _: what)[0]


def retried_many(
    call: Callable[[Sequence[int]], Sequence[T | Exception]],
    count: int,
    *,
    what: Callable[[int], str],
) -> list[T]:
    """The results of ``call`` for 0 ... count - 1; what failed is attempted again.

    Args:
        call: numbers to their results or errors, or an error of all.
        count: how many.
        what: name of one, for the message.

    Raises:
        DataError: one failed every time, or in a way that time does not mend.
    """
    results: dict[int, T] = {}
    pending: list[int] = list(range(count))
    for attempt, delay in enumerate((*DELAYS, None)):
        came = _outcomes(call, pending)
        failed = [(i, error) for i, error in came if isinstance(error, Exception)]
        results |= {i: value for i, value in came if not isinstance(value, Exception)}
        if not failed:
            break
        for i, error in failed:
            if delay is None or _permanent(error):
                raise DataError(
                    f"{what(i)} cannot be read, after {attempt + 1} attempt(s): "
                    f"{type(error).__name__}: {error}"
                ) from error
        pending = [i for i, _ in failed]
        time.sleep(delay or 0.0)
    return [results[i] for i in range(count)]


def _outcomes(
    call: Callable[[Sequence[int]], Sequence[T | Exception]], pending: list[int]
) -> list[tuple[int, T | Exception]]:
    # fsspec's backends raise their libraries' errors, which have nothing in common but Exception.
    try:
        return list(zip(pending, call(pending), strict=True))
    except Exception as error:  # noqa: BLE001
        return [(i, error) for i in pending]


def _permanent(error: Exception) -> bool:
    """Whether the same request would be answered the same: no such file, no permission."""
    if isinstance(error, DataError | PermissionError):
        return True
    # fsspec's HTTP says "not found" of a server that answers nothing, too, for a cause.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
    if cause is None:
        return True
    status = getattr(cause, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in _WORTH_REPEATING
