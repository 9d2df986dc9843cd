"""Options that every call takes."""

import math
import re
import uuid
from dataclasses import dataclass, field
from typing import TypedDict

from flowmo.client.retry import Retry
from flowmo.client.values import Priority

# What the server takes over; it would give anything else a name of its own.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class CallOptions(TypedDict, total=False):
    """Keyword arguments of every call; what is not given is the client's own.

    Attributes:
        model: The name of one of the served models; None is the server's default.
        priority: ``batch`` lets interactive work pass; None is the server's default.
        deadline: Seconds for all attempts together; None is the server's default for each. A call
            that splits a list gives each of its requests so long.
        request_id: 1 to 128 letters, digits or ``. _ : -`` that name the call in the server's log;
            the attempts of a call share it. A new one by default.
        retry: How often to try.
    """

    model: str | None
    priority: Priority | None
    deadline: float | None
    request_id: str
    retry: Retry


def new_request_id() -> str:
    """One that nobody has had."""
    return uuid.uuid4().hex


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """The options of one call; attributes as in :class:`CallOptions`.

    Raises:
        ValueError: An option is out of range.
    """

    model: str | None = None
    priority: Priority | None = None
    deadline: float | None = None
    request_id: str = field(default_factory=new_request_id)
    retry: Retry = field(default_factory=Retry)

    def __post_init__(self) -> None:
        if self.deadline is not None and not 0.0 < self.deadline < math.inf:
            raise ValueError(f"deadline must be a number of seconds above 0, got {self.deadline}")
        if not _REQUEST_ID.fullmatch(self.request_id):
            raise ValueError(
                f"request_id must be 1 to 128 letters, digits or . _ : -, got {self.request_id!r}"
            )
