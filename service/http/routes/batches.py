"""Several pictures in one request."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from flowmo.imaging.worker import SquareImage
from flowmo.imaging.writing import OUTPUT_MEDIA_TYPES, ImageFormat
from flowmo.model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE
from flowmo.service.engine.calls import DecodeOptions
from flowmo.service.http.batches import Outcomes, Split, read_batch
from flowmo.service.http.bodies import FINGERPRINT_HEADER, FORM, JSON
from flowmo.service.http.cache import CacheResult
from flowmo.service.http.disconnect import until_disconnect
from flowmo.service.http.job import Job
from flowmo.service.http.negotiation import choose
from flowmo.service.http.openapi import schema_ref
from flowmo.service.http.picture import Picture
from flowmo.service.http.request_scope import RequestScope
from flowmo.service.http.routes.compact_batches import (
    TOKEN_FORMS,
    EncodedItem,
    compact_answer,
    token_items,
)
from flowmo.service.http.routes.shared import (
    ServiceOf,
    binary_content,
    decode_options,
    explained,
    problems,
    received_tokens,
)
from flowmo.service.http.service import Service
from flowmo.service.http.streaming import EventStream
from flowmo.service.http.token_sets import check_one_tile, model_for
from flowmo.service.http.wire.batches import (
    BatchAnswer,
    DetokenizeBatchBody,
    DetokenizeItem,
    ItemAnswer,
    PictureItemAnswer,
    PictureItemOptions,
    ReconstructBatchBody,
    ReconstructItem,
    ReconstructItemOptions,
    TokenizeBatchBody,
    TokenizeItem,
    TokenizeItemAnswer,
    TokenizeItemOptions,
)
from flowmo.service.http.wire.bodies import FitMessage, TokensBody, UploadMessage
from flowmo.service.http.wire.tokens import TokensMessage

router = APIRouter(prefix="/v1", tags=["batches"])

NDJSON = "application/x-ndjson"
PICTURE_OFFERS = (JSON, NDJSON)
TOKEN_OFFERS = (*PICTURE_OFFERS, *TOKEN_FORMS)

_MEDIA_TYPES = {format: media_type for media_type, format in OUTPUT_MEDIA_TYPES.items()}

I = TypeVar("I", bound=BaseModel)  # noqa: E741  (an item)
A = TypeVar("A", bound=ItemAnswer)
R = TypeVar("R")


def _body(body: type[BaseModel], *further: str) -> dict[str, object]:
    """Make the OpenAPI request body in its forms."""
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"item": files}, "required": ["item"]}
    content = {FORM: {"schema": form}, JSON: {"schema": schema_ref(body)}}
    content |= binary_content(*further)
    return {"requestBody": {"required": True, "content": content}}


def _answers(*forms: str) -> dict[int | str, dict[str, Any]]:
    """Make the OpenAPI answers: JSON, a line of JSON an item, and further forms."""
    lines = {NDJSON: {"schema": {"type": "string"}}}
    described = {
        "description": "The outcome of each item; as lines they come as they are made, each with "
        "its item's index.",
        "content": lines | binary_content(*forms),
    }
    return {200: described, **problems(400, 404, 406, 408, 409, 413, 415, 422, 429, 503)}


@router.post(
    "/tokenize/batch",
    response_model=BatchAnswer[TokenizeItemAnswer],
    responses=_answers(*TOKEN_FORMS),
    openapi_extra=_body(TokenizeBatchBody),
)
async def tokenize_batch(
    request: Request, service: ServiceOf, query: Annotated[TokenizeItemOptions, Query()]
) -> Response:
    """Turn several images into tokens; each has its own outcome.

    In the forms that are no JSON, `Flowmo-Item-Status` has the status of each item.
    """
    media_type = choose(request.headers.get("accept"), TOKEN_OFFERS)

    async def encode(scope: RequestScope, item: TokenizeItem) -> EncodedItem:
        job = Job.begin(service, scope, service.models.choose(item.model), waits=True)
        upload = await job.read(item.image, item.fit)
        layout = job.layout_of(upload, item.overlap)
        tokens = await job.encode(upload.fitted.pixels, layout)
        if media_type in TOKEN_FORMS and media_type != CONTAINER_MEDIA_TYPE:
            check_one_tile(tokens, media_type)
        return EncodedItem(job, tokens, upload)

    async def one(scope: RequestScope, item: TokenizeItem) -> TokenizeItemAnswer:
        encoded = await encode(scope, item)
        job, tokens, upload = encoded.job, encoded.tokens, encoded.upload
        message = container = None
        if item.tokens == "container":
            container = _base64(tokens.to_bytes())
        else:
            message = TokensMessage.of(job.name, tokens)
        return TokenizeItemAnswer(
            status=HTTPStatus.OK,
            model=job.name,
            upload=UploadMessage.of(upload),
            fit=FitMessage.of(upload.fitted.report),
            container=container,
            tokens=message,
        )

    read = _Reading(TokenizeItem, "image", query)
    if media_type in TOKEN_FORMS:
        with service.admit(request, priority="batch") as scope:
            outcomes = await _begin(request, service, scope, read, encode)
            found = await until_disconnect(request, outcomes.all())
        return compact_answer(service, request, found, media_type, model=query.model)
    return await _run(request, service, read, one, TokenizeItemAnswer, media_type)


@router.post(
    "/detokenize/batch",
    response_model=BatchAnswer[PictureItemAnswer],
    responses=_answers(),
    openapi_extra=_body(DetokenizeBatchBody, *TOKEN_FORMS),
)
async def detokenize_batch(
    request: Request, service: ServiceOf, query: Annotated[PictureItemOptions, Query()]
) -> Response:
    """Turn several token sets into images; each has its own outcome."""
    media_type = choose(request.headers.get("accept"), PICTURE_OFFERS)

    async def one(scope: RequestScope, item: DetokenizeItem) -> PictureItemAnswer:
        sent = item.sent()
        served = model_for(service.models, sent, item.model)
        job = Job.begin(service, scope, served, waits=True)
        tokens = received_tokens(service, job.info, sent)
        options = decode_options(service, job.info, item)
        found = await job.decode(tokens, options, item.format, item.quality)
        return _picture(job, options, item.format, found)

    fingerprint = request.headers.get(FINGERPRINT_HEADER)
    files = {
        form: token_items(service, form, name=query.model, fingerprint=fingerprint)
        for form in TOKEN_FORMS
    }
    read = _Reading(DetokenizeItem, "container", query, files)
    return await _run(request, service, read, one, PictureItemAnswer, media_type)


@router.post(
    "/reconstruct/batch",
    response_model=BatchAnswer[PictureItemAnswer],
    responses=_answers(),
    openapi_extra=_body(ReconstructBatchBody),
)
async def reconstruct_batch(
    request: Request, service: ServiceOf, query: Annotated[ReconstructItemOptions, Query()]
) -> Response:
    """Turn several images into tokens and these into images; each has its own outcome."""
    media_type = choose(request.headers.get("accept"), PICTURE_OFFERS)

    async def one(scope: RequestScope, item: ReconstructItem) -> PictureItemAnswer:
        job = Job.begin(service, scope, service.models.choose(item.model), waits=True)
        options = decode_options(service, job.info, item)
        upload = await job.read(item.image, item.fit)
        layout, pixels = job.layout_of(upload, item.overlap), upload.fitted.pixels
        found = await job.reconstruct(pixels, options, item.format, item.quality, layout)
        return _picture(job, options, item.format, found, upload)

    read = _Reading(ReconstructItem, "image", query)
    return await _run(request, service, read, one, PictureItemAnswer, media_type)


@dataclass(frozen=True, slots=True)
class _Reading(Generic[I]):
    """How the body of a batch request is read.

    Attributes:
        kind: The type of one item.
        upload: The field of ``kind`` that a file of a form becomes.
        query: The options from the query string.
        files: By media type, what makes items of a body that is neither JSON nor a form.
    """

    kind: type[I]
    upload: str
    query: BaseModel
    files: Mapping[str, Split] = field(default_factory=dict)


async def _begin(
    request: Request,
    service: Service,
    scope: RequestScope,
    reading: _Reading[I],
    work: Callable[[RequestScope, I], Awaitable[R]],
) -> Outcomes[R]:
    """Read a batch request.

    Args:
        request: A request whose body has not been read.
        service: The parts that all routes share.
        scope: The request's scope.
        reading: How the body is read.
        work: Makes the outcome of one item.
    """
    settings = service.settings
    batch = await read_batch(
        request,
        reading.kind,
        reading.query,
        field=reading.upload,
        seconds=settings.body_seconds,
        max_items=settings.max_items,
        max_values=service.max_token_values if issubclass(reading.kind, TokensBody) else 0,
        files=reading.files,
    )

    async def one(item: I) -> R:
        return await scope.cancellation.until_cancelled(work(scope, item))

    return Outcomes(batch, one, service.feed, scope.call)


async def _run(
    request: Request,
    service: Service,
    reading: _Reading[I],
    work: Callable[[RequestScope, I], Awaitable[A]],
    answer: type[A],
    media_type: str,
) -> Response:
    """Answer a batch request in JSON, or a line of JSON an item.

    Args:
        request: A request whose body has not been read.
        service: The parts that all routes share.
        reading: How the body is read.
        work: Makes the outcome of one item.
        answer: The type of one item's outcome.
        media_type: One of :data:`PICTURE_OFFERS`.
    """
    # Whoever sends many pictures at once waits for the whole; whoever sends one is waited for.
    with service.admit(request, priority="batch") as scope:
        outcomes = await _begin(request, service, scope, reading, work)
        if media_type == NDJSON:
            resources = scope.resources.pop_all()
            lines = _lines(service, request, outcomes, answer, resources)
            return EventStream(lines, resources, {"Vary": "Accept"}, NDJSON)
        found = await until_disconnect(request, outcomes.all())
    items = [_item(service, request, outcome, answer) for outcome in found]
    failed = sum(item.problem is not None for item in items)
    batch = BatchAnswer[answer](  # type: ignore[valid-type]
        succeeded=len(items) - failed, failed=failed, items=items
    )
    text = batch.model_dump_json(exclude_none=True)
    return Response(text, headers={"Vary": "Accept"}, media_type=JSON)


async def _lines(
    service: Service,
    request: Request,
    outcomes: Outcomes[A],
    kind: type[A],
    resources: ExitStack,
) -> AsyncIterator[bytes]:
    """A line of JSON for each item as it is made, and one with their counts at the end."""
    counts = {"succeeded": 0, "failed": 0}
    async for index, outcome in outcomes.as_made(resources):
        item = _item(service, request, outcome, kind)
        counts["succeeded" if item.problem is None else "failed"] += 1
        text = item.model_dump_json(exclude_none=True)
        yield f'{{"index":{index},{text[1:]}\n'.encode()
    yield json.dumps(counts).encode() + b"\n"


def _picture(
    job: Job,
    options: DecodeOptions,
    format: ImageFormat,
    found: CacheResult[Picture],
    upload: SquareImage | None = None,
) -> PictureItemAnswer:
    sampler, asked = found.value.sampler, options.sampler.steps
    return PictureItemAnswer(
        status=HTTPStatus.OK,
        model=job.name,
        upload=None if upload is None else UploadMessage.of(upload),
        fit=None if upload is None else FitMessage.of(upload.fitted.report),
        media_type=_MEDIA_TYPES[format],
        image=_base64(found.value.data),
        seed=options.seed,
        steps=sampler.steps,
        schedule=sampler.schedule,
        rho=sampler.rho if sampler.has_rho else None,
        guidance=sampler.guidance,
        degraded_from=None if sampler.steps == asked else asked,
        cache=found.outcome,
    )


def _item(service: Service, request: Request, outcome: A | Exception, kind: type[A]) -> A:
    if not isinstance(outcome, Exception):
        return outcome
    problem = explained(service, request, outcome)
    return kind(status=problem.status, problem=problem)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
