"""From answers to values. What cannot be read raises KeyError, TypeError or ValueError."""

import base64
from collections.abc import Mapping
from typing import Any

import httpx

from flowmo.client.errors import ServerRefusedError
from flowmo.client.retry import retry_after_seconds
from flowmo.client.values import DecodedImage, EncodedImage, ModelInfo, PriorInfo
from flowmo.model.container import Container

_OCCURRENCE = "urn:flowmo:request:"


def encoded(answer: httpx.Response) -> EncodedImage:
    """Of tokenize, as a container."""
    width, _, height = answer.headers["Flowmo-Upload-Size"].partition("x")
    return EncodedImage(
        container=Container.from_bytes(answer.content),
        data=answer.content,
        token_bytes=int(answer.headers["Flowmo-Token-Bytes"]),
        upload_size=(int(width), int(height)),
        timings=_timings(answer.headers),
        seconds=answer.elapsed.total_seconds(),
        request_id=answer.headers.get("X-Request-ID", ""),
    )


def decoded(answer: httpx.Response) -> DecodedImage:
    """Of detokenize and reconstruct."""
    return decoded_from_headers(
        answer.content,
        answer.headers["Content-Type"],
        answer.headers,
        seconds=answer.elapsed.total_seconds(),
        request_id=answer.headers.get("X-Request-ID", ""),
    )


def decoded_from_headers(
    data: bytes, media_type: str, headers: httpx.Headers, *, seconds: float, request_id: str
) -> DecodedImage:
    """A picture and the headers that say how it was made."""
    degraded_from = headers.get("Flowmo-Degraded-From")
    return DecodedImage(
        data=data,
        media_type=media_type,
        seed=int(headers["Flowmo-Seed"]),
        steps=int(headers["Flowmo-Steps"]),
        schedule=headers["Flowmo-Schedule"],
        guidance=float(headers["Flowmo-Guidance"]),
        degraded_from=None if degraded_from is None else int(degraded_from),
        timings=_timings(headers),
        seconds=seconds,
        request_id=request_id,
    )


def decoded_of_event(
    data: Mapping[str, Any], headers: httpx.Headers, seconds: float, request_id: str
) -> DecodedImage:
    """What the last event of a stream says."""
    return decoded_from_headers(
        from_base64(data["image"]),
        str(data["media_type"]),
        headers,
        seconds=seconds,
        request_id=request_id,
    )


def encoded_item(item: Mapping[str, Any], answer: httpx.Response) -> EncodedImage:
    """One success of a tokenize batch."""
    data = from_base64(item["container"])
    container = Container.from_bytes(data)
    upload = members(item["upload"])
    return EncodedImage(
        container=container,
        data=data,
        token_bytes=len(container.tokens.pack()),
        upload_size=(int(upload["width"]), int(upload["height"])),
        timings={},
        seconds=answer.elapsed.total_seconds(),
        request_id=answer.headers.get("X-Request-ID", ""),
    )


def decoded_item(item: Mapping[str, Any], answer: httpx.Response) -> DecodedImage:
    """One success of a detokenize or reconstruct batch."""
    degraded_from = item.get("degraded_from")
    return DecodedImage(
        data=from_base64(item["image"]),
        media_type=str(item["media_type"]),
        seed=int(item["seed"]),
        steps=int(item["steps"]),
        schedule=str(item["schedule"]),
        guidance=float(item["guidance"]),
        degraded_from=None if degraded_from is None else int(degraded_from),
        timings={},
        seconds=answer.elapsed.total_seconds(),
        request_id=answer.headers.get("X-Request-ID", ""),
    )


def models(answer: httpx.Response) -> list[ModelInfo]:
    """Of ``GET /v1/models``."""
    return [_model(members(model)) for model in answer.json()["models"]]


def _model(model: Mapping[str, Any]) -> ModelInfo:
    # Of a server that is older than priors there is no word of any.
    prior = model.get("prior")
    names = [name for name in ModelInfo.__slots__ if name != "prior"]
    return ModelInfo(
        **{name: model[name] for name in names},
        prior=None if prior is None else _prior(members(prior)),
    )


def _prior(prior: Mapping[str, Any]) -> PriorInfo:
    return PriorInfo(
        name=str(prior["name"]),
        fingerprint=str(prior["fingerprint"]),
        classes=int(prior["classes"]),
        class_names=tuple(prior["class_names"]),
    )


def refusal(answer: httpx.Response) -> ServerRefusedError:
    """The server's problem; something between may have answered in another form."""
    try:
        problem = members(answer.json())
    except (ValueError, TypeError):
        problem = {"detail": answer.reason_phrase}
    wait = answer.headers.get("Retry-After", "")
    return refusal_of(
        problem,
        status=answer.status_code,
        request_id=answer.headers.get("X-Request-ID", ""),
        retry_after=retry_after_seconds(wait, date=answer.headers.get("Date", "")),
    )


def refusal_of(
    problem: Mapping[str, Any],
    *,
    status: int | None = None,
    request_id: str = "",
    retry_after: float | None = None,
) -> ServerRefusedError:
    """A problem document as an error.

    Args:
        problem: as in RFC 9457, with ``code`` and ``hint``.
        status: The HTTP status; the document's own by default.
        request_id: The answer's request id; the document's own by default.
        retry_after: The answer's Retry-After; the document's own by default.
    """
    if retry_after is None and "retry_after" in problem:
        retry_after = retry_after_seconds(str(problem["retry_after"]))
    return ServerRefusedError(
        status=int(problem["status"]) if status is None else status,
        code=str(problem.get("code", "unknown")),
        detail=str(problem.get("detail", "")),
        hint=str(problem.get("hint", "")),
        request_id=request_id or str(problem.get("instance", "")).removeprefix(_OCCURRENCE),
        retry_after=retry_after,
    )


def members(value: object) -> Mapping[str, Any]:
    """The members of a JSON object."""
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return value


def from_base64(value: object) -> bytes:
    """The bytes of a JSON string."""
    return base64.b64decode(str(value), validate=True)


def _timings(headers: httpx.Headers) -> dict[str, float]:
    timings = {}
    for entry in headers.get("Server-Timing", "").split(","):
        name, _, value = entry.strip().partition(";dur=")
        if value:
            timings[name] = float(value)
    return timings
