"""New images from a server's prior: what is asked for, and what comes."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
from numpy.typing import NDArray

from flowmo.client import answers
from flowmo.client.calls import CallOptions
from flowmo.client.events import MEDIA_TYPE as EVENTS
from flowmo.client.inputs import TokenSource, token_bytes
from flowmo.client.requests import Operation
from flowmo.client.values import Degrade, ImageFile, ImageFormat
from flowmo.model.container import Container
from flowmo.model.tokens import Tokens

PATH = "/v1/generate"

Class = str | int | None
"""A class of the prior: its name, its number, or None for none."""
Mask = Sequence[bool] | Sequence[Sequence[bool]] | NDArray[np.bool_]


class GenerateOptions(CallOptions, total=False):
    """Keyword arguments of the calls that generate; what is not given is the server's default.

    Attributes:
        seed: The seed of all random numbers: the same seed gives the same image.
        steps: The most steps of the prior.
        guidance: The weight of the class; 1 is none.
        temperature: The softmax temperature; 0 takes the most probable ids.
        degrade: ``allow`` lets the server take fewer steps, at least a quarter, if the deadline
            cannot be met otherwise.
        tokens: Tokens of one square, of which some are kept.
        mask: Which: K bools, true for each token that stays, or [K, D/G] of them for the ids.
    """

    seed: int
    steps: int | None
    guidance: float | None
    temperature: float | None
    degrade: Degrade | None
    tokens: TokenSource | None
    mask: Mask | None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class GeneratedTokens:
    """The tokens of a new image; :meth:`Client.detokenize` takes them as they are.

    Attributes:
        container: Tokens and the fingerprint of the model that decodes them.
        seed: The seed that was used.
        steps: The most steps that were allowed.
        degraded_from: The number that was asked for, if fewer were allowed.
        prior: The fingerprint of the prior.
        request_id: The name of the request in the server's log.
    """

    container: Container
    seed: int
    steps: int
    degraded_from: int | None
    prior: str
    request_id: str

    def to_bytes(self) -> bytes:
        """The container's bytes; what a ``.flowmo`` file holds."""
        return self.container.to_bytes()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.flowmo`` file.

        Args:
            path: The file; one that is there is replaced.

        Raises:
            OSError: The file cannot be written.
        """
        Path(path).write_bytes(self.to_bytes())

    def __repr__(self) -> str:
        return (
            f"GeneratedTokens(seed {self.seed}, {self.steps} steps, "
            f"prior {self.prior[:8]}, model {self.container.fingerprint[:8]})"
        )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class GeneratedImage(ImageFile):
    """A new image.

    Attributes:
        data: The content of a PNG, JPEG or WebP file.
        media_type: Which of them it is.
        seed: The seed that was used.
        steps: The most steps of the prior that were allowed.
        degraded_from: The number that was asked for, if fewer were allowed.
        decode_steps: The steps in which its tokens became the image.
        prior: The fingerprint of the prior.
        container: Its tokens, of an image that was seen while it was made.
        seconds: The time from request to answer, as the client saw it.
        request_id: The name of the request in the server's log.
    """

    data: bytes
    media_type: str
    seed: int
    steps: int
    degraded_from: int | None
    decode_steps: int
    prior: str
    container: Container | None
    seconds: float
    request_id: str

    def __repr__(self) -> str:
        return (
            f"GeneratedImage({self.media_type}, {len(self.data):,} bytes, seed {self.seed}, "
            f"{self.steps} steps, prior {self.prior[:8]}, {self.seconds:.3f} s)"
        )


def tokens_operation(
    class_: Class, count: int, options: GenerateOptions
) -> Operation[list[GeneratedTokens]]:
    """The request for the tokens of new images."""
    params, content = _wish(class_, options)
    return Operation(
        method="POST",
        path=PATH,
        read=_generated,
        params=params | {"count": str(count)},
        headers=_headers("application/json", content),
        content=content,
    )


def image_operation(
    class_: Class,
    options: GenerateOptions,
    *,
    format: ImageFormat,
    quality: int | None,
    decode_steps: int | None,
) -> Operation[GeneratedImage]:
    """The request for a new image."""
    params, content = _wish(class_, options)
    return Operation(
        method="POST",
        path=PATH,
        read=_image,
        params=params | _given(quality=quality, decode_steps=decode_steps),
        headers=_headers(f"image/{format}", content),
        content=content,
    )


def stream_operation(
    class_: Class,
    options: GenerateOptions,
    *,
    previews: Sequence[int],
    preview_steps: int | None,
    format: ImageFormat,
    quality: int | None,
    decode_steps: int | None,
) -> Operation[None]:
    """The request for a new image while it is made."""
    params, content = _wish(class_, options)
    more = _given(quality=quality, decode_steps=decode_steps, preview_steps=preview_steps)
    return Operation(
        method="POST",
        path=PATH,
        read=lambda _: None,
        params=params | more | {"stream": "true", "previews": [str(step) for step in previews]},
        headers=_headers(f"image/{format}, {EVENTS}", content),
        content=content,
    )


def image_of_event(
    data: Mapping[str, Any], headers: httpx.Headers, seconds: float, request_id: str
) -> GeneratedImage:
    """What the last event of a stream says."""
    return _image_of(
        answers.from_base64(data["image"]),
        str(data["media_type"]),
        headers,
        container=Container.from_bytes(answers.from_base64(data["container"])),
        seconds=seconds,
        request_id=request_id,
    )


def call_options(options: GenerateOptions) -> CallOptions:
    """The options of a call that are not of what is generated."""
    own = GenerateOptions.__annotations__.keys() - CallOptions.__annotations__.keys()
    return cast(CallOptions, {name: v for name, v in options.items() if name not in own})


def _wish(
    class_: Class, options: GenerateOptions
) -> tuple[dict[str, str | list[str]], bytes | None]:
    """The query, and the body if tokens are kept.

    Raises:
        ValueError: Tokens came without a mask, or a mask without tokens.
    """
    params = _given(
        seed=options.get("seed"),
        steps=options.get("steps"),
        guidance=options.get("guidance"),
        temperature=options.get("temperature"),
        degrade=options.get("degrade"),
    )
    if class_ is not None:
        params["class"] = str(class_)
    tokens, mask = options.get("tokens"), options.get("mask")
    if (tokens is None) != (mask is None):
        raise ValueError("tokens and mask go together: which tokens, and which of them stay")
    if tokens is None or mask is None:
        return params, None
    body = {
        "container": base64.b64encode(token_bytes(tokens)).decode(),
        "mask": np.asarray(mask, dtype=np.bool_).tolist(),
    }
    return params, json.dumps(body).encode()


def _given(**values: object) -> dict[str, str | list[str]]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _headers(accept: str, content: bytes | None) -> dict[str, str]:
    return {"Accept": accept} | ({} if content is None else {"Content-Type": "application/json"})


def _generated(answer: httpx.Response) -> list[GeneratedTokens]:
    body = answers.members(answer.json())
    return [_tokens_of(item, body, answer) for item in body["items"]]


def _tokens_of(
    item: Mapping[str, Any], body: Mapping[str, Any], answer: httpx.Response
) -> GeneratedTokens:
    message = answers.members(item["tokens"])
    tokens = Tokens(ids=np.array(message["ids"], np.int32), group_bits=int(message["group_bits"]))
    return GeneratedTokens(
        container=Container(
            tokens=tokens,
            fingerprint=str(message["fingerprint"]),
            width=int(message["width"]),
            height=int(message["height"]),
        ),
        seed=int(item["seed"]),
        steps=int(item["steps"]),
        degraded_from=item["degraded_from"],
        prior=str(body["prior"]),
        request_id=answer.headers.get("X-Request-ID", ""),
    )


def _image(answer: httpx.Response) -> GeneratedImage:
    return _image_of(
        answer.content,
        answer.headers["Content-Type"],
        answer.headers,
        container=None,
        seconds=answer.elapsed.total_seconds(),
        request_id=answer.headers.get("X-Request-ID", ""),
    )


def _image_of(
    data: bytes,
    media_type: str,
    headers: httpx.Headers,
    *,
    container: Container | None,
    seconds: float,
    request_id: str,
) -> GeneratedImage:
    degraded_from = headers.get("Flowmo-Degraded-From")
    return GeneratedImage(
        data=data,
        media_type=media_type,
        seed=int(headers["Flowmo-Seed"]),
        steps=int(headers["Flowmo-Steps"]),
        degraded_from=None if degraded_from is None else int(degraded_from),
        decode_steps=int(headers["Flowmo-Decode-Steps"]),
        prior=headers["Flowmo-Prior"],
        container=container,
        seconds=seconds,
        request_id=request_id,
    )
