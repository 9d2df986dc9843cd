"""The body of generate: JSON, or none at all."""

from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from flowmo.service.errors import UnsupportedBodyError
from flowmo.service.http.bodies import JSON, media_type_of, merged, parse_aside, read_body, shown
from flowmo.service.http.json_bodies import MAX_OPTION_VALUES, parse_json
from flowmo.service.http.token_sets import SentTokens
from flowmo.service.http.wire.generate import GenerateBody, GenerateOptions


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What is asked for.

    Attributes:
        options: The route's options.
        sent: The tokens of which some are kept, as they came.
        mask: Which.
    """

    options: GenerateOptions
    sent: SentTokens | None = None
    mask: list[bool] | list[list[bool]] | None = None


async def read_generate(
    request: Request, query: GenerateOptions, *, seconds: float, max_values: int
) -> GenerateRequest:
    """Read the body; options in it win over the query's.

    Args:
        request: A request whose body has not been read.
        query: The options from the query string.
        seconds: The longest time for the body to arrive.
        max_values: The most values that tokens and mask may be in JSON.

    Raises:
        RequestError: The body cannot be used; the subclass says why.
        model.errors.ContainerError: The container cannot be read.
    """
    media_type = media_type_of(request)
    data = await read_body(request, seconds)
    if media_type == JSON:
        most = max_values + MAX_OPTION_VALUES
        body = await parse_aside(request, data, partial(parse_json, GenerateBody, most=most))
        given = body.model_dump(exclude_unset=True, exclude=set(body.not_options))
        return GenerateRequest(merged(query, given, "body"), body.sent(), body.mask)
    if not data:
        return GenerateRequest(query)
    raise UnsupportedBodyError(
        f"what to generate comes as {JSON}, or in the query alone; Content-Type says "
        f"{shown(media_type)}"
    )
