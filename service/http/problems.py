# ruff: noqa: E501  (the table below is one row a line)
"""How every error is answered: one table, one form (RFC 9457, ``application/problem+json``).

Besides the members of the standard (type, title, status, detail, instance) an answer has ``code``
(the stable name), ``hint`` (what to do about it) and, for fields, ``errors``. Nothing of an upload
is ever in it.
"""

from dataclasses import dataclass
from http import HTTPStatus

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from flowmo.imaging.formats import ACCEPTED_FORMATS
from flowmo.imaging.reading import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    UnsupportedImageError,
)
from flowmo.model.errors import (
    ConfigError,
    ContainerCorruptedError,
    ContainerError,
    ContainerMismatchError,
    ContainerTruncatedError,
    ContainerVersionError,
    NotAContainerError,
    PictureTooLargeError,
    TokenError,
)
from flowmo.service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientLeftError,
    ComputeError,
    DeadlineExceededError,
    DeadlineUnreachableError,
    EngineStoppedError,
    GatewayLostError,
    InvalidFieldsError,
    MalformedBodyError,
    NoPriorError,
    NotAcceptableError,
    NotReadyError,
    OtherWeightsError,
    QueueFullError,
    RateLimitedError,
    RequestCancelledError,
    RowError,
    ShuttingDownError,
    TensorError,
    UnauthorizedError,
    UnavailableError,
    UnknownModelError,
    UnknownRequestError,
    UnsupportedBodyError,
)

PROBLEM_MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How an error is answered.

    Attributes:
        status: The HTTP status.
        code: A stable name, for programs.
        title: A stable sentence, for people.
        hint: What the client can do about it.
    """

    status: int
    code: str
    title: str
    hint: str


_SEND_AGAIN = "Send the container exactly as it was received."

# fmt: off
ANSWERS: dict[type[Exception], Answer] = {
    error: Answer(status=status, code=code, title=title, hint=hint)
    for error, status, code, title, hint in (
        (MalformedBodyError, 400, "malformed-body", "The body cannot be read", "Send a body that is what its Content-Type says."),
        (TensorError, 400, "bad-tensor", "The tensors cannot be used", "Send the tensors that GET /v2/models/MODEL states."),
        (CorruptImageError, 400, "corrupt-image", "The image cannot be decoded", "Send the complete, undamaged file."),
        (ImageError, 400, "bad-image", "The image cannot be used", f"Send a {ACCEPTED_FORMATS} file."),
        (NotAContainerError, 400, "not-a-container", "The body is no token container", "Send the bytes that /v1/tokenize returned for Accept: application/vnd.flowmo."),
        (ContainerTruncatedError, 400, "container-truncated", "The token container is incomplete", _SEND_AGAIN),
        (ContainerCorruptedError, 400, "container-corrupted", "The token container is damaged", _SEND_AGAIN),
        (ContainerVersionError, 400, "container-version", "The token container is of another version", "Tokenize the image again, or update this server."),
        (ContainerError, 400, "bad-container", "The token container cannot be used", _SEND_AGAIN),
        (UnauthorizedError, 401, "unauthorized", "A key is needed", "Send Authorization: Bearer KEY, with a key that the operator gave you."),
        (UnknownModelError, 404, "unknown-model", "No such model", "Name one of the models of GET /v1/models, or none for the default."),
        (NoPriorError, 404, "no-prior", "The model generates nothing", "Name a model whose entry in GET /v1/models has a prior."),
        (UnknownRequestError, 404, "unknown-request", "No such request", "Name the X-Request-ID of a request that is not answered yet and that the same key has sent."),
        (BodyTimeoutError, 408, "body-timeout", "The body did not arrive in time", "Send it faster, or send less."),
        (NotAcceptableError, 406, "not-acceptable", "No acceptable representation", "Name one of the offered media types in Accept."),
        (ContainerMismatchError, 409, "container-mismatch", "The tokens are of another model", "Decode them with the model that made them; GET /v1/models shows the one served here."),
        (OtherWeightsError, 409, "other-weights", "The model is just being replaced", "Send it again in a minute; if that does not help, tokenize the image again."),
        (BodyTooLargeError, 413, "body-too-large", "The body is too large", "Send a smaller file."),
        (ImageTooLargeError, 413, "image-too-large", "The image has too many pixels", "Scale the image down."),
        (PictureTooLargeError, 413, "picture-too-large", "The picture is too large", "Scale the picture down, or use fit=crop, pad or stretch, which take one tile."),
        (UnsupportedBodyError, 415, "unsupported-body", "The body's type is not read here", "Set Content-Type to one of the types named in the detail."),
        (UnsupportedImageError, 415, "unsupported-image", "The image's format is not accepted", f"Convert it to {ACCEPTED_FORMATS}."),
        (InvalidFieldsError, 422, "invalid-fields", "Fields cannot be used", "Correct the fields listed in errors; /openapi.json describes them."),
        (TokenError, 422, "invalid-tokens", "The tokens cannot be used", "Send ids of the shape and range that GET /v1/models states."),
        (ConfigError, 422, "invalid-options", "The options cannot be used", "Correct the options; docs/api.md describes them."),
        (QueueFullError, 429, "queue-full", "The server is at capacity", "Wait as long as Retry-After says, then send it again."),
        (RateLimitedError, 429, "rate-limited", "The key has used up what it may", "Wait as long as Retry-After says, or ask the operator for more."),
        (DeadlineUnreachableError, 429, "deadline-unreachable", "The deadline cannot be met", "Wait as long as Retry-After says, allow more time, ask for fewer steps, or send degrade=allow."),
        (ClientLeftError, 499, "client-left", "The client has left", "Wait for the answer."),
        (ClientDisconnect, 499, "client-left", "The client has left", "Wait for the answer."),
        (RequestCancelledError, 499, "cancelled", "The request was cancelled", "Send it again if it is needed after all."),
        (NotReadyError, 503, "not-ready", "The server is warming up", "Wait as long as Retry-After says, then ask again."),
        (GatewayLostError, 503, "gateway-lost", "The process that had the request is gone", "Send it again: encoding and decoding repeat exactly."),
        (ShuttingDownError, 503, "shutting-down", "The server is ending", "Send it again: to another server, or to this one when it is back."),
        (ComputeError, 500, "compute-failed", "The device failed", "Send it again; the server's log has the details."),
        (DeadlineExceededError, 504, "deadline-exceeded", "The deadline has passed", "Allow more time, or ask for fewer steps."),
        (EngineStoppedError, 503, "engine-stopped", "The server cannot compute", "Restart the server; its log says why it stopped."),
    )
}
# fmt: on

INTERNAL = Answer(
    status=500,
    code="internal",
    title="The server made a mistake",
    hint="Report the request id; the server's log has the details.",
)


def answer_for(error: BaseException) -> Answer:
    """The most specific row of the table for an error; :data:`INTERNAL` when it has none."""
    if isinstance(error, RowError):
        return answer_for(error.error)
    rows = (ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    return next(rows, INTERNAL)


class FieldMessage(BaseModel):
    """A field of the request that cannot be used."""

    field: str
    message: str


class Problem(BaseModel):
    """A problem document: any error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    hint: str
    errors: list[FieldMessage] | None = None
    retry_after: int | None = None


def problem(
    answer: Answer, detail: str, *, request_id: str, error: BaseException | None = None
) -> Problem:
    """Make the problem document of an error.

    Args:
        answer: The row of the table that answers the error.
        detail: What happened this time.
        request_id: The id that names the occurrence (``instance``).
        error: The error itself, which adds its fields and its Retry-After.
    """
    fields = error.problems if isinstance(error, InvalidFieldsError) else ()
    return Problem(
        type=f"urn:flowmo:problem:{answer.code}",
        title=answer.title,
        status=answer.status,
        detail=detail,
        instance=f"urn:flowmo:request:{request_id}",
        code=answer.code,
        hint=answer.hint,
        errors=[FieldMessage(field=p.field, message=p.message) for p in fields] or None,
        retry_after=error.retry_after if isinstance(error, UnavailableError) else None,
    )


def problem_response(
    answer: Answer, detail: str, *, request_id: str, error: BaseException | None = None
) -> Response:
    """Answer an error with RFC 9457 JSON; the arguments are those of :func:`problem`."""
    message = problem(answer, detail, request_id=request_id, error=error)
    return Response(
        message.model_dump_json(exclude_none=True),
        answer.status,
        headers=error_headers(answer, error),
        media_type=PROBLEM_MEDIA_TYPE,
    )


def error_headers(answer: Answer, error: BaseException | None) -> dict[str, str]:
    """The headers that go with an error, whatever the form of its text."""
    headers = {}
    if isinstance(error, RowError):
        error = error.error
    if answer.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(error.retry_after)
    return headers
