"""What can be wrong with a request as such.

Errors of images, tokens and containers are raised where they happen; ``service.problems`` says how
each kind is answered.

    RequestError                 anything wrong with a request as such
     ├── MalformedBodyError      not what its Content-Type says
     ├── TensorError             tensors of the inference protocol that do not fit
     ├── RowError                one row of an inference request
     ├── InvalidFieldsError      fields missing, unknown or out of range
     ├── UnsupportedBodyError    a Content-Type or Content-Encoding that is not read
     ├── UnknownModelError       a model that is not served
     ├── NoPriorError            a model that generates nothing
     ├── NotAcceptableError      nothing that the Accept header names is on offer
     ├── BodyTooLargeError       more bytes than the limit
     ├── BodyTimeoutError        the body did not arrive in time
     ├── UnauthorizedError       no key, or an unknown one
     ├── UnavailableError        not now, but later
     │    ├── QueueFullError          as much is inside as may be
     │    ├── RateLimitedError        the key has used up what it may
     │    ├── DeadlineUnreachableError  it would be done too late
     │    ├── NotReadyError           the warm-up is not done
     │    ├── GatewayLostError        the process that had the request has died
     │    └── ShuttingDownError       the server ends before the request is done
     ├── DeadlineExceededError   it was not done in time
     ├── OtherWeightsError       tokens for a model that is just being replaced
     ├── ComputeError            the device failed on it
     ├── EngineStoppedError      the device thread has ended
     ├── ClientLeftError         nobody waits for the answer any more
     ├── RequestCancelledError   its sender has cancelled it
     └── UnknownRequestError     there is no such request to cancel
"""

from collections.abc import Sequence
from dataclasses import dataclass


class RequestError(Exception):
    """Something is wrong with a request."""


class MalformedBodyError(RequestError):
    """The body is not what its Content-Type says."""


class TensorError(RequestError):
    """Tensors of the inference protocol that do not fit together or to the model."""


class RowError(RequestError):
    """One row of an inference request failed, and with it the request.

    Args:
        row: The index of the row, 0 for the first.
        error: The error of the row, which says how the request is answered.
    """

    def __init__(self, row: int, error: Exception) -> None:
        self.row, self.error = row, error
        super().__init__(f"row {row}: {error}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldProblem:
    """One field of a request that cannot be used.

    Attributes:
        field: The path of the field, e.g. ``query.steps`` or ``body.tokens.ids.3``.
        message: What was expected.
    """

    field: str
    message: str


class InvalidFieldsError(RequestError):
    """Fields are missing, unknown or out of range.

    Args:
        problems: What is wrong, at least one entry.
    """

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field}: {p.message}" for p in problems))


class UnsupportedBodyError(RequestError):
    """The body has a Content-Type or Content-Encoding that is not read."""


class UnknownModelError(RequestError):
    """The request names a model that is not served."""


class NoPriorError(RequestError):
    """The model is served without a prior, so there is nothing to generate with."""


class NotAcceptableError(RequestError):
    """Nothing that the Accept header names is on offer."""


class BodyTooLargeError(RequestError):
    """The body has more bytes than the limit."""


class BodyTimeoutError(RequestError):
    """The body did not arrive in time."""


class UnauthorizedError(RequestError):
    """There is no key, or an unknown one."""


class UnavailableError(RequestError):
    """The request cannot be served now, but later.

    Args:
        message: Why not now.
        retry_after: The whole seconds after which it is worth trying again.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class QueueFullError(UnavailableError):
    """The admission limiter or an engine has as much inside as it may."""


class RateLimitedError(UnavailableError):
    """The key has used up what it may, for now."""


class DeadlineUnreachableError(UnavailableError):
    """The work would be done too late, so it is not begun."""


class NotReadyError(UnavailableError):
    """The warm-up is not done."""


class GatewayLostError(UnavailableError):
    """The process that had the request has died; the work may be asked for again."""


class ShuttingDownError(UnavailableError):
    """The server ends before the request is done."""


class DeadlineExceededError(RequestError):
    """The work was begun, and not done by its deadline."""


class OtherWeightsError(RequestError):
    """The tokens are for other weights than these; a replica of them may still be there."""


class ComputeError(RequestError):
    """The device failed on a batch that the request was in."""


class EngineStoppedError(RequestError):
    """The device thread has ended."""


class ClientLeftError(RequestError):
    """Nobody waits for the answer any more."""


class RequestCancelledError(RequestError):
    """The request's sender has cancelled it."""


class UnknownRequestError(RequestError):
    """There is no such request of this sender inside."""
