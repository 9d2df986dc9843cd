"""Image to tokens, tokens to image, and both."""

from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE
from model.container import Container
from model.tokens import Tokens
from service import bodies, streaming
from service.core import Service, Visit, until_disconnect
from service.engine.calls import Decoded, DecodeOptions
from service.negotiation import choose
from service.openapi import schema_ref
from service.render import OUTPUT_MEDIA_TYPES
from service.routes.shared import (
    ServiceOf,
    binary_content,
    decode_options,
    image_request_body,
    model_headers,
    problem_text,
    problems,
    sampling_headers,
    upload_headers,
)
from service.wire import (
    DetokenizeBody,
    DetokenizeOptions,
    FitMessage,
    FitOptions,
    ReconstructBody,
    ReconstructOptions,
    TokenizeAnswer,
    TokenizeBody,
    TokensMessage,
    UploadMessage,
)

router = APIRouter(prefix="/v1", tags=["tokens"])

TOKEN_OFFERS = ("application/json", CONTAINER_MEDIA_TYPE)
IMAGE_OFFERS = tuple(OUTPUT_MEDIA_TYPES)


@router.post(
    "/tokenize",
    response_model=TokenizeAnswer,
    responses={
        200: {
            "description": "Tokens, as JSON ids or as a packed container.",
            "content": binary_content(CONTAINER_MEDIA_TYPE),
        },
        **problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=image_request_body(TokenizeBody, FitOptions),
)
async def tokenize(
    request: Request, service: ServiceOf, query: Annotated[FitOptions, Query()]
) -> Response:
    """Turn an image into tokens."""
    media_type = choose(request.headers.get("accept"), TOKEN_OFFERS)
    seconds = service.settings.body_seconds
    with service.admit(request) as visit:
        clock = visit.clock
        sent = await bodies.read_image(request, TokenizeBody, query, seconds=seconds)
        upload = await service.read(sent.data, sent.options.fit, clock)
        tokens = await service.encode(visit, upload.fitted.pixels)
    info = service.engines.info
    headers = model_headers(service, visit.clock) | upload_headers(upload)
    headers["Flowmo-Token-Bytes"] = str(info.config.payload_bytes)
    if media_type == CONTAINER_MEDIA_TYPE:
        container = Container(
            tokens=tokens,
            fingerprint=info.fingerprint,
            width=info.image_size,
            height=info.image_size,
        )
        return Response(container.to_bytes(), headers=headers, media_type=media_type)
    answer = TokenizeAnswer(
        tokens=TokensMessage.of(tokens, info),
        upload=UploadMessage.of(upload.image),
        fit=FitMessage.of(upload.fitted.report),
    )
    return Response(answer.model_dump_json(), headers=headers, media_type=media_type)


@router.post(
    "/detokenize",
    response_class=Response,
    responses={
        200: {
            "description": "The image, or its making as events.",
            "content": {
                **binary_content(*IMAGE_OFFERS),
                streaming.MEDIA_TYPE: {"schema": {"type": "string"}},
            },
        },
        **problems(400, 406, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                **binary_content(CONTAINER_MEDIA_TYPE, bodies.BINARY),
                "application/json": {"schema": schema_ref(DetokenizeBody)},
            },
        }
    },
)
async def detokenize(
    request: Request, service: ServiceOf, query: Annotated[DetokenizeOptions, Query()]
) -> Response:
    """Turn tokens into an image; the same tokens, seed and options give the same image.

    With `stream=true`, or `Accept: text/event-stream`, the answer is Server-Sent Events: `progress`
    after each step, `preview` at the steps in `previews`, then `image`, or `error`.
    """
    media_type = choose(request.headers.get("accept"), (*IMAGE_OFFERS, streaming.MEDIA_TYPE))
    seconds = service.settings.body_seconds
    with ExitStack() as inside:
        visit = inside.enter_context(service.admit(request))
        clock = visit.clock
        sent, wanted = await bodies.read_tokens(request, query, seconds=seconds)
        options = decode_options(service, wanted)
        tokens = _checked(sent, service)
        if wanted.stream or media_type == streaming.MEDIA_TYPE:
            return await _stream(service, visit, tokens, options, wanted, media_type, inside)
        decoded = await service.decode(visit, tokens, options)
        data = await service.render(
            decoded.pixels, OUTPUT_MEDIA_TYPES[media_type], wanted.quality, clock
        )
    headers = model_headers(service, visit.clock) | sampling_headers(options, decoded)
    return Response(data, headers=headers, media_type=media_type)


@router.post(
    "/reconstruct",
    response_class=Response,
    responses={
        200: {"description": "The image.", "content": binary_content(*IMAGE_OFFERS)},
        **problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=image_request_body(ReconstructBody, ReconstructOptions),
)
async def reconstruct(
    request: Request, service: ServiceOf, query: Annotated[ReconstructOptions, Query()]
) -> Response:
    """Turn an image into tokens and these into an image."""
    media_type = choose(request.headers.get("accept"), IMAGE_OFFERS)
    seconds = service.settings.body_seconds
    with service.admit(request) as visit:
        clock = visit.clock
        sent = await bodies.read_image(request, ReconstructBody, query, seconds=seconds)
        options = decode_options(service, sent.options)
        upload = await service.read(sent.data, sent.options.fit, clock)
        tokens = await service.encode(visit, upload.fitted.pixels)
        decoded = await service.decode(visit, tokens, options)
        data = await service.render(
            decoded.pixels, OUTPUT_MEDIA_TYPES[media_type], sent.options.quality, clock
        )
    headers = (
        model_headers(service, visit.clock)
        | sampling_headers(options, decoded)
        | upload_headers(upload)
    )
    headers["Flowmo-Token-Bytes"] = str(service.engines.info.config.payload_bytes)
    return Response(data, headers=headers, media_type=media_type)


async def _stream(
    service: Service,
    visit: Visit,
    tokens: Tokens,
    options: DecodeOptions,
    wanted: DetokenizeOptions,
    media_type: str,
    inside: ExitStack,
) -> Response:
    """The decode as events; ``inside`` is theirs from the first on."""
    if media_type == streaming.MEDIA_TYPE:
        media_type = IMAGE_OFFERS[0]
    stream = streaming.DecodeStream(service, visit, media_type=media_type, quality=wanted.quality)
    start = stream.start(
        lambda watch: service.engines.decode(tokens, options, visit.call, watch),
        wanted.previews,
        inside,
    )
    await until_disconnect(visit.request, start)

    def describe(decoded: Decoded) -> dict[str, str]:
        return model_headers(service, visit.clock) | sampling_headers(options, decoded)

    def explain(error: Exception) -> str:
        return problem_text(service, visit.request, error)

    headers = model_headers(service, visit.clock)
    return streaming.EventStream(stream.events(describe, explain), inside.pop_all(), headers)


def _checked(sent: Container | DetokenizeBody, service: Service) -> Tokens:
    """Tokens that this server's model can decode.

    Raises:
        ContainerMismatchError: made by another model.
        TokenError: of another shape.
    """
    info = service.engines.info
    if isinstance(sent, DetokenizeBody):
        return sent.tokens.to_tokens(info)
    sent.check_model(info.fingerprint, info.config)
    return sent.tokens
