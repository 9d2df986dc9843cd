"""Every request of one thing, as a value: what is sent, and how its answer is read."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import httpx

from flowmo.client import answers
from flowmo.client.inputs import Picture, TokenSource, picture_bytes, token_bytes
from flowmo.client.values import (
    DecodedImage,
    EncodedImage,
    Fit,
    ImageFormat,
    ModelInfo,
    Region,
    Sampling,
)
from flowmo.model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE

BINARY = "application/octet-stream"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation(Generic[T]):
    """A request and the way to read its answer.

    Attributes:
        method: The method of HTTP.
        path: The path below the server's URL.
        read: Turns an answer of status 2xx into a value; raises KeyError, TypeError or ValueError.
        params: Parameters of the query; a list repeats its name.
        headers: Headers besides those that every request has.
        content: The body, unless it is ``files``.
        files: Bodies of the parts ``item`` of a form.
        for_model: Whether the server must know which model is meant.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, str | list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    files: Sequence[bytes] | None = None
    for_model: bool = True


def tokenize(image: Picture, *, fit: Fit, overlap: float | None) -> Operation[EncodedImage]:
    """The request for the tokens of an image."""
    return Operation(
        method="POST",
        path="/v1/tokenize",
        read=answers.encoded,
        params=fit_params(fit, overlap),
        headers={"Content-Type": BINARY, "Accept": CONTAINER_MEDIA_TYPE},
        content=picture_bytes(image),
    )


def detokenize(
    tokens: TokenSource,
    *,
    sampling: Sampling | None,
    format: ImageFormat,
    quality: int | None,
    region: Region | None,
) -> Operation[DecodedImage]:
    """The request for the image of tokens."""
    return Operation(
        method="POST",
        path="/v1/detokenize",
        read=answers.decoded,
        params=decode_params(sampling, quality) | region_params(region),
        headers={"Content-Type": CONTAINER_MEDIA_TYPE, "Accept": f"image/{format}"},
        content=token_bytes(tokens),
    )


def stream_detokenize(
    tokens: TokenSource,
    *,
    sampling: Sampling | None,
    previews: Sequence[int],
    format: ImageFormat,
    quality: int | None,
    region: Region | None,
) -> Operation[None]:
    """The request for the image of tokens as events, which :mod:`flowmo.client.stream` reads."""
    params: dict[str, str | list[str]] = {
        **decode_params(sampling, quality),
        **region_params(region),
        "stream": "true",
    }
    if previews:
        params["previews"] = [str(step) for step in previews]
    return Operation(
        method="POST",
        path="/v1/detokenize",
        read=lambda _: None,
        params=params,
        headers={"Content-Type": CONTAINER_MEDIA_TYPE, "Accept": f"image/{format}"},
        content=token_bytes(tokens),
    )


def reconstruct(
    image: Picture,
    *,
    fit: Fit,
    overlap: float | None,
    sampling: Sampling | None,
    format: ImageFormat,
    quality: int | None,
) -> Operation[DecodedImage]:
    """The request for an image through tokens and back."""
    return Operation(
        method="POST",
        path="/v1/reconstruct",
        read=answers.decoded,
        params=decode_params(sampling, quality) | fit_params(fit, overlap),
        headers={"Content-Type": BINARY, "Accept": f"image/{format}"},
        content=picture_bytes(image),
    )


def picture_path(
    tokens: TokenSource, *, sampling: Sampling | None, format: ImageFormat, quality: int | None
) -> str:
    """The address of a picture below the server's URL.

    Raises:
        ValueError: The sampling allows to degrade.
    """
    params = decode_params(sampling, quality)
    if params.pop("degrade", "never") != "never":
        raise ValueError("a URL means one picture whatever the load: degrade must not be 'allow'")
    text = base64.urlsafe_b64encode(token_bytes(tokens)).decode().rstrip("=")
    return f"/v1/pictures/{text}?{httpx.QueryParams({**params, 'format': format})}"


def cancel(request_id: str) -> Operation[int]:
    """The request to give up another one."""
    return Operation(
        method="POST",
        path=f"/v1/requests/{request_id}/cancel",
        read=lambda answer: int(answer.json()["cancelled"]),
        for_model=False,
    )


def models() -> Operation[list[ModelInfo]]:
    """The request for what is served."""
    return Operation(method="GET", path="/v1/models", read=answers.models, for_model=False)


def ready() -> Operation[None]:
    """The question whether the server has warmed up; it is refused if it has not."""
    return Operation(method="GET", path="/readyz", read=lambda _: None, for_model=False)


def fit_params(fit: Fit, overlap: float | None) -> dict[str, str]:
    """The query parameters that say what becomes of a picture."""
    return {"fit": fit} | ({} if overlap is None else {"overlap": str(overlap)})


def region_params(region: Region | None) -> dict[str, str]:
    """The query parameter of the part of a picture that is wanted."""
    return {} if region is None else {"region": ",".join(map(str, region))}


def decode_params(sampling: Sampling | None, quality: int | None) -> dict[str, str]:
    """The query parameters of a decode."""
    params = (sampling or Sampling()).params()
    return params if quality is None else params | {"quality": str(quality)}
