"""When a failed attempt is worth another one, and after how long."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

from flowmo.client.errors import ClientError, ConnectionFailedError, ServerRefusedError

# Overload, warm-up or a restart; 502 is what a proxy in front of a restarting server says.
_TEMPORARY_STATUSES = {429, 502, 503}
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often a call is tried, and how long it waits in between.

    A call is tried again when the connection failed and when the server answered 429, 502 or 503:
    every route gives the same answer to the same request, so that none is harmed by a second one.
    The server's ``Retry-After`` is waited for, and then a random part of ``first_wait``, which
    doubles with each attempt.

    Attributes:
        attempts: The most attempts, the first one counted; 1 or more.
        first_wait: The first wait in seconds, 0 or more.
        longest_wait: The longest wait between two attempts; a server that wants a longer one is not
            asked again.

    Raises:
        ValueError: A value is out of range.
    """

    attempts: int = 4
    first_wait: float = 0.5
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, got {self.attempts}")
        for name in ("first_wait", "longest_wait"):
            seconds = getattr(self, name)
            if not 0.0 <= seconds < math.inf:
                raise ValueError(f"{name} must be a number of seconds from 0, got {seconds}")

    @classmethod
    def none(cls) -> Self:
        """One attempt, whatever happens."""
        return cls(attempts=1)

    def wait(
        self, error: ClientError, *, failures: int, left: float | None, jitter: float
    ) -> float | None:
        """Seconds until the next attempt; None for no further one.

        Args:
            error: How the last attempt failed.
            failures: The number of attempts so far, all failed; 1 or more.
            left: Seconds until the deadline, if there is one.
            jitter: A random number from 0 to 1.
        """
        if failures >= self.attempts or not is_temporary(error):
            return None
        least = getattr(error, "retry_after", None) or 0.0
        if least > self.longest_wait or (left is not None and least >= left):
            return None
        # All whom a full server sent away would otherwise return at the same moment.
        spread = min(self.first_wait * 2.0 ** min(failures - 1, 64), self.longest_wait - least)
        if left is not None:
            # A wait up to the deadline would leave no time for the work.
            spread = min(spread, (left - least) / 2.0)
        return least + jitter * spread


def is_temporary(error: ClientError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ServerRefusedError):
        return error.status in _TEMPORARY_STATUSES
    return isinstance(error, ConnectionFailedError)


def retry_after_seconds(value: str, *, date: str = "") -> float | None:
    """Seconds that a ``Retry-After`` header asks for; None if it cannot be read.

    Args:
        value: The header's value, seconds or a date of HTTP.
        date: The answer's ``Date``: a date is measured by the server's own clock if it can be.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until = _http_date(value)
    if until is None:
        return None
    now = _http_date(date) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
