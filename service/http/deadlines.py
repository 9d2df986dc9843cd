"""How long a request may take and how urgent it is: what its headers say."""

import math
import time
from collections.abc import Mapping
from typing import get_args

from flowmo.service.engine.calls import Call, Priority
from flowmo.service.errors import FieldProblem, InvalidFieldsError

# The name that Ray Serve's proxies know too.
DEADLINE_HEADER = "X-Request-Timeout-Seconds"
PRIORITY_HEADER = "Flowmo-Priority"


def call_of(
    headers: Mapping[str, str],
    *,
    default: float,
    most: float,
    margin: float = 0.0,
    priority: Priority = "interactive",
) -> Call:
    """Read the deadline and priority of a request that has just come.

    Args:
        headers: The request's headers, by names in any case.
        default: The seconds that the request may take if it does not say.
        most: The seconds that it may take whatever it says.
        margin: The seconds by which the answer must come earlier, at most a quarter of the time.
        priority: The priority of a request that does not say.

    Raises:
        InvalidFieldsError: A header's value cannot be used.
    """
    given = headers.get(DEADLINE_HEADER)
    seconds = default if given is None else _seconds(given)
    wanted = headers.get(PRIORITY_HEADER, priority).strip().lower()
    for known in get_args(Priority):
        if wanted == known:
            seconds = min(seconds, most)
            seconds -= min(margin, seconds / 4)
            return Call(deadline=time.monotonic() + seconds, priority=known)
    raise _invalid(PRIORITY_HEADER, f"must be one of {', '.join(get_args(Priority))}")


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise _invalid(DEADLINE_HEADER, "must be a number of seconds above 0")
    return seconds


def _invalid(header: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError([FieldProblem(field=f"header.{header}", message=message)])
