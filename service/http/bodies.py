"""Request bodies in their several forms, to one value.

An image may come as multipart form data (one file), raw under its own media type, or as base64 in
JSON; tokens as a container or as JSON. Bodies stay in memory (their size is limited) and are never
written to disk.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from flowmo.imaging.formats import MEDIA_TYPES as IMAGE_MEDIA_TYPES
from flowmo.model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE
from flowmo.model.container import Container
from flowmo.service.errors import (
    BodyTimeoutError,
    InvalidFieldsError,
    MalformedBodyError,
    UnsupportedBodyError,
)
from flowmo.service.http.json_bodies import MAX_OPTION_VALUES, field_problems, parse_json
from flowmo.service.http.token_files import ARRAYS, read_container
from flowmo.service.http.wire.bodies import DetokenizeBody, ImageBody
from flowmo.service.http.wire.options import DetokenizeOptions
from flowmo.service.http.wire.tokens import TokensMessage
from flowmo.service.models import Models

JSON = "application/json"
FORM = "multipart/form-data"
BINARY = "application/octet-stream"
# Says in a request whose packed bits they are.
FINGERPRINT_HEADER = "Flowmo-Fingerprint"
MAX_FORM_FIELDS = 16
_LARGE_BYTES = 256 * 1024

O = TypeVar("O", bound=BaseModel)  # noqa: E741  (options)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageRequest(Generic[O]):
    """An uploaded image file and the route's options."""

    data: bytes
    options: O


class _InMemoryParser(MultiPartParser):
    spool_max_size = sys.maxsize  # never to disk; the body as a whole is limited


async def read_image(
    request: Request, body_type: type[ImageBody], query: O, *, seconds: float
) -> ImageRequest[O]:
    """Read an image in any of its three forms.

    Options in a JSON body or in form fields win over the query's.

    Args:
        request: A request whose body has not been read.
        body_type: The type of a JSON body: ``image`` and the options of ``query``'s type.
        query: The options from the query string.
        seconds: The longest time for the body to arrive.

    Raises:
        RequestError: The body cannot be used; the subclass says why.
    """
    media_type = media_type_of(request)
    if media_type == JSON:
        data = await read_body(request, seconds)
        message = await parse_aside(request, data, partial(parse_json, body_type))
        given = message.model_dump(exclude_unset=True, exclude={"image"})
        return ImageRequest(message.image, merged(query, given, "body"))
    if media_type == FORM:
        form = await read_form(request, seconds)
        return ImageRequest(form.files[0], merged(query, form.fields, "form"))
    if media_type in IMAGE_MEDIA_TYPES or media_type == BINARY:
        return ImageRequest(await read_body(request, seconds), query)
    raise UnsupportedBodyError(
        f"an image comes as {FORM}, {JSON}, {BINARY} or {', '.join(IMAGE_MEDIA_TYPES)}; "
        f"Content-Type says {shown(media_type)}"
    )


@dataclass(frozen=True, slots=True)
class TokensRequest:
    """Tokens as they were sent, and the route's options."""

    sent: Container | TokensMessage
    options: DetokenizeOptions


async def read_tokens(
    request: Request,
    query: DetokenizeOptions,
    models: Models,
    *,
    seconds: float,
    max_values: int,
) -> TokensRequest:
    """Read tokens in any of their forms, and the options that hold.

    Args:
        request: A request whose body has not been read.
        query: The options from the query string; the body's win.
        models: The models that are served.
        seconds: The longest time for the body to arrive.
        max_values: The most values that the tokens may be in JSON.

    Raises:
        RequestError: The body cannot be used; the subclass says why.
        model.errors.FlowMoError: The container cannot be read, or the tokens are of no model here.
    """
    media_type = media_type_of(request)
    if media_type == JSON:
        data = await read_body(request, seconds)
        most = max_values + MAX_OPTION_VALUES
        body = await parse_aside(request, data, partial(parse_json, DetokenizeBody, most=most))
        given = body.model_dump(exclude_unset=True, exclude=set(body.not_options))
        return TokensRequest(body.sent(), merged(query, given, "body"))
    if media_type == CONTAINER_MEDIA_TYPE:
        return TokensRequest(Container.from_bytes(await read_body(request, seconds)), query)
    if media_type in {*ARRAYS, BINARY}:
        found = read_container(
            await read_body(request, seconds),
            media_type,
            models,
            name=query.model,
            fingerprint=request.headers.get(FINGERPRINT_HEADER),
        )
        return TokensRequest(found, query)
    raise UnsupportedBodyError(
        f"tokens come as {', '.join((CONTAINER_MEDIA_TYPE, JSON, *ARRAYS))} or {BINARY}; "
        f"Content-Type says {shown(media_type)}"
    )


async def parse_aside(request: Request, data: bytes, parse: Callable[[bytes], T]) -> T:
    """Parse a body in a thread; of the large ones only one at a time.

    Tens of megabytes must not hold up everybody else, and a parser holds the interpreter's lock
    while it makes a string of them: several would have it in turn, and the event loop never.

    Args:
        request: The request, of an application that :func:`create_app` has made.
        data: The body.
        parse: Makes a value of it.
    """
    if len(data) < _LARGE_BYTES:
        return await asyncio.to_thread(parse, data)
    turn: asyncio.Lock = request.app.state.large_body
    async with turn:
        return await asyncio.to_thread(parse, data)


def merged(query: O, given: Mapping[str, object], where: str) -> O:
    """Options of the body over those of the query.

    Args:
        query: The options from the query string.
        given: Those that the body has.
        where: The part of the request that they came in, for messages.

    Raises:
        InvalidFieldsError: They do not go together.
    """
    if not given:
        return query
    try:
        return type(query).model_validate({**query.model_dump(exclude_unset=True), **given})
    except ValidationError as error:
        raise InvalidFieldsError(field_problems(error, where)) from None


def media_type_of(request: Request) -> str:
    """The request's Content-Type without its parameters, in lower case.

    Raises:
        UnsupportedBodyError: The body is compressed.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedBodyError("Content-Encoding is not read; send the body as it is")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def shown(media_type: str) -> str:
    """Format a Content-Type for an error message."""
    return repr(media_type[:80]) if media_type else "nothing"


async def read_body(request: Request, seconds: float) -> bytes:
    """Read the whole body.

    Raises:
        BodyTimeoutError: The body did not arrive within ``seconds``.
    """
    try:
        async with asyncio.timeout(seconds):
            # Not request.body(), which keeps it for as long as there is the request.
            chunks = [chunk async for chunk in request.stream()]
    except TimeoutError:
        raise _late(seconds) from None
    if sum(map(len, chunks)) < _LARGE_BYTES:
        return b"".join(chunks)
    # Tens of milliseconds for the largest; the interpreter's lock is free meanwhile.
    return await asyncio.to_thread(b"".join, chunks)


def _late(seconds: float) -> BodyTimeoutError:
    return BodyTimeoutError(f"the body was not complete after {seconds:g} s")


@dataclass(frozen=True, slots=True)
class Form:
    """Multipart form data.

    Attributes:
        files: The files, in their order.
        fields: The other fields, by name.
    """

    files: list[bytes]
    fields: dict[str, str]


async def read_form(request: Request, seconds: float, *, max_files: int = 1) -> Form:
    """Read a form with at least one file.

    Args:
        request: A request whose body has not been read.
        seconds: The longest time for the body to arrive.
        max_files: The most files of one form.

    Raises:
        BodyTimeoutError: The body did not arrive in time.
        MalformedBodyError: The body is not such a form.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            yield chunk

    parser = _InMemoryParser(
        request.headers,
        stream(),
        max_files=max_files,
        max_fields=MAX_FORM_FIELDS,
        max_part_size=4096,
    )
    try:
        async with asyncio.timeout(seconds):
            form = await parser.parse()
    except TimeoutError:
        raise _late(seconds) from None
    except MultiPartException as error:
        raise MalformedBodyError(f"the form cannot be read: {error.message}") from None
    except (ValueError, LookupError) as error:
        raise MalformedBodyError("the form cannot be read: it is not multipart data") from error
    fields: dict[str, str] = {}
    files: list[bytes] = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append(await value.read())
            elif name in fields:
                raise MalformedBodyError("a form field is there twice")
            else:
                fields[name] = value
    finally:
        await form.close()
    if not files:
        raise MalformedBodyError(
            "the form has no file; name one: curl -F image=@photo.jpg, with a file name"
        )
    return Form(files, fields)
