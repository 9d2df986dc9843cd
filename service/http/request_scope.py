"""What one request holds from its admission until its answer has been sent."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from starlette.requests import Request

from flowmo.service.engine.calls import Call
from flowmo.service.http.cancellation import Cancellation
from flowmo.service.http.keys import Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkScope:
    """Work that was admitted and what it holds, as a context manager.

    Attributes:
        call: The work's deadline and priority.
        cancellation: Whether its sender has cancelled it.
        resources: What is released at the end of the scope: the admission, and the models in use.
            An answer that is still being made when the route returns takes them over with
            ``resources.pop_all()``.
        usage: What the request's key has used; None where no key is needed.
    """

    call: Call
    cancellation: Cancellation
    resources: ExitStack
    usage: Usage | None = None

    async def spend(self, *, pictures: int = 1, steps: int = 0) -> None:
        """Count what is about to be computed; see :meth:`Usage.spend`."""
        if self.usage is not None:
            await self.usage.spend(pictures=pictures, steps=steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestScope(WorkScope):
    """One admitted HTTP request and what it holds.

    Attributes:
        request: The request as the client sent it.
    """

    request: Request
