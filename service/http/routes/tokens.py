"""Image to tokens, tokens to image, and both."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from flowmo.imaging.writing import OUTPUT_MEDIA_TYPES
from flowmo.model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE
from flowmo.model.image_tokens import ImageTokens
from flowmo.service.engine.calls import Decoded, DecodeOptions
from flowmo.service.http import bodies, streaming
from flowmo.service.http.disconnect import until_disconnect
from flowmo.service.http.job import Job
from flowmo.service.http.negotiation import choose
from flowmo.service.http.openapi import schema_ref
from flowmo.service.http.picture import check_region
from flowmo.service.http.picture_identity import address_of, tag_of
from flowmo.service.http.request_scope import RequestScope
from flowmo.service.http.routes.shared import (
    ServiceOf,
    binary_content,
    decode_options,
    explained,
    image_request_body,
    model_headers,
    problems,
    received_tokens,
    sampling_headers,
    tile_headers,
    upload_headers,
)
from flowmo.service.http.service import Service
from flowmo.service.http.token_files import ARRAYS, PACKED
from flowmo.service.http.token_sets import compact, model_for
from flowmo.service.http.wire.bodies import (
    DetokenizeBody,
    FitMessage,
    ReconstructBody,
    TokenizeAnswer,
    TokenizeBody,
    UploadMessage,
)
from flowmo.service.http.wire.options import DetokenizeOptions, ReconstructOptions, TokenizeOptions
from flowmo.service.http.wire.tokens import TokensMessage

router = APIRouter(prefix="/v1", tags=["tokens"])

TOKEN_OFFERS = ("application/json", CONTAINER_MEDIA_TYPE, *ARRAYS, PACKED)
IMAGE_OFFERS = tuple(OUTPUT_MEDIA_TYPES)


@router.post(
    "/tokenize",
    response_model=TokenizeAnswer,
    responses={
        200: {
            "description": "Tokens, as JSON ids, as a packed container, as arrays or as bare bits.",
            "content": binary_content(*TOKEN_OFFERS[1:]),
        },
        **problems(400, 404, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=image_request_body(TokenizeBody, TokenizeOptions),
)
async def tokenize(
    request: Request, service: ServiceOf, query: Annotated[TokenizeOptions, Query()]
) -> Response:
    """Turn an image into tokens."""
    media_type = choose(request.headers.get("accept"), TOKEN_OFFERS)
    seconds = service.settings.body_seconds
    with service.admit(request) as scope:
        sent = await bodies.read_image(request, TokenizeBody, query, seconds=seconds)
        job = Job.begin(service, scope, service.models.choose(sent.options.model))
        upload = await until_disconnect(request, job.read(sent.data, sent.options.fit))
        layout = job.layout_of(upload, sent.options.overlap)
        tokens = await until_disconnect(request, job.encode(upload.fitted.pixels, layout))
    headers = model_headers(job) | upload_headers(upload) | tile_headers(job, layout)
    if media_type != TOKEN_OFFERS[0]:
        data = compact(tokens, job.info, media_type, model=job.name)
        return Response(data, headers=headers, media_type=media_type)
    answer = TokenizeAnswer(
        tokens=TokensMessage.of(job.name, tokens),
        upload=UploadMessage.of(upload),
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
                streaming.MEDIA_TYPE: {"schema": streaming.EVENT_SCHEMA},
            },
        },
        **problems(400, 404, 406, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                **binary_content(*TOKEN_OFFERS[1:]),
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
    with service.admit(request) as scope:
        body = await bodies.read_tokens(
            request,
            query,
            service.models,
            seconds=seconds,
            max_values=service.max_token_values,
        )
        wanted = body.options
        job = Job.begin(service, scope, model_for(service.models, body.sent, wanted.model))
        tokens = received_tokens(service, job.info, body.sent)
        options = replace(decode_options(service, job.info, wanted), region=wanted.box)
        check_region(tokens.layout, options.region)
        if wanted.stream or media_type == streaming.MEDIA_TYPE:
            return await _stream(service, scope, job, tokens, options, wanted, media_type)
        format = OUTPUT_MEDIA_TYPES[media_type]
        found = await until_disconnect(request, job.decode(tokens, options, format, wanted.quality))
    headers = model_headers(job) | sampling_headers(options, found.value.sampler)
    headers |= tile_headers(job, tokens.layout)
    headers["Flowmo-Cache"] = found.outcome
    # Of the picture that was made: one of fewer steps has an address of its own.
    made = (options.seed, found.value.sampler, format, wanted.quality)
    headers["ETag"] = tag_of(tokens, *made, region=options.region)
    address = None if options.region else address_of(tokens.to_bytes(), *made)
    if address is not None:
        headers["Content-Location"] = address
    return Response(found.value.data, headers=headers, media_type=media_type)


@router.post(
    "/reconstruct",
    response_class=Response,
    responses={
        200: {"description": "The image.", "content": binary_content(*IMAGE_OFFERS)},
        **problems(400, 404, 406, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra=image_request_body(ReconstructBody, ReconstructOptions),
)
async def reconstruct(
    request: Request, service: ServiceOf, query: Annotated[ReconstructOptions, Query()]
) -> Response:
    """Turn an image into tokens and these into an image."""
    media_type = choose(request.headers.get("accept"), IMAGE_OFFERS)
    seconds = service.settings.body_seconds
    with service.admit(request) as scope:
        sent = await bodies.read_image(request, ReconstructBody, query, seconds=seconds)
        wanted = sent.options
        job = Job.begin(service, scope, service.models.choose(wanted.model))
        options = decode_options(service, job.info, wanted)
        upload = await until_disconnect(request, job.read(sent.data, wanted.fit))
        format = OUTPUT_MEDIA_TYPES[media_type]
        layout = job.layout_of(upload, wanted.overlap)
        pixels = upload.fitted.pixels
        work = job.reconstruct(pixels, options, format, wanted.quality, layout)
        found = await until_disconnect(request, work)
    headers = (
        model_headers(job) | sampling_headers(options, found.value.sampler) | upload_headers(upload)
    )
    headers |= tile_headers(job, layout)
    headers["Flowmo-Cache"] = found.outcome
    return Response(found.value.data, headers=headers, media_type=media_type)


async def _stream(
    service: Service,
    scope: RequestScope,
    job: Job,
    tokens: ImageTokens,
    options: DecodeOptions,
    wanted: DetokenizeOptions,
    media_type: str,
) -> Response:
    """Answer with the decode as events."""
    if media_type == streaming.MEDIA_TYPE:
        media_type = IMAGE_OFFERS[0]
    stream = streaming.DecodeStream(
        job,
        media_type=media_type,
        quality=wanted.quality,
        layout=tokens.layout,
        region=options.region,
    )
    start = stream.start(
        lambda watch: scope.cancellation.until_cancelled(job.pixels(tokens, options, watch=watch)),
        wanted.previews,
        scope.resources,
    )
    await until_disconnect(scope.request, start)

    def describe(decoded: Decoded) -> dict[str, str]:
        return model_headers(job) | sampling_headers(options, decoded.sampler)

    def explain(error: Exception) -> str:
        return explained(service, scope.request, error).model_dump_json(exclude_none=True)

    events = stream.events(describe, explain)
    return streaming.EventStream(events, scope.resources.pop_all(), model_headers(job))
