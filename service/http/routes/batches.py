"""Several pictures in one request."""

import base64
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from flowmo.imaging.worker import SquareImage
from flowmo.imaging.writing import OUTPUT_MEDIA_TYPES, ImageFormat
from flowmo.service.engine.calls import DecodeOptions
from flowmo.service.http.batch_wire import (
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
from flowmo.service.http.batches import outcomes, read_batch
from flowmo.service.http.bodies import FORM, JSON
from flowmo.service.http.cache import CacheResult
from flowmo.service.http.disconnect import until_disconnect
from flowmo.service.http.job import Job
from flowmo.service.http.openapi import schema_ref
from flowmo.service.http.picture import Picture
from flowmo.service.http.request_scope import RequestScope
from flowmo.service.http.routes.shared import (
    ServiceOf,
    decode_options,
    explained,
    problems,
    received_tokens,
)
from flowmo.service.http.service import Service
from flowmo.service.http.token_sets import model_for
from flowmo.service.http.wire import FitMessage, TokensBody, TokensMessage, UploadMessage

router = APIRouter(prefix="/v1", tags=["batches"])

_MEDIA_TYPES = {format: media_type for media_type, format in OUTPUT_MEDIA_TYPES.items()}

I = TypeVar("I", bound=BaseModel)  # noqa: E741  (an item)
A = TypeVar("A", bound=ItemAnswer)


def _body(body: type[BaseModel]) -> dict[str, object]:
    """Make the OpenAPI request body in its two forms."""
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"item": files}, "required": ["item"]}
    content = {FORM: {"schema": form}, JSON: {"schema": schema_ref(body)}}
    return {"requestBody": {"required": True, "content": content}}


_PROBLEMS = problems(400, 408, 413, 415, 422, 429, 503)


@router.post(
    "/tokenize/batch",
    response_model=BatchAnswer[TokenizeItemAnswer],
    responses=_PROBLEMS,
    openapi_extra=_body(TokenizeBatchBody),
)
async def tokenize_batch(
    request: Request, service: ServiceOf, query: Annotated[TokenizeItemOptions, Query()]
) -> Response:
    """Turn several images into tokens; each has its own outcome."""

    async def one(scope: RequestScope, item: TokenizeItem) -> TokenizeItemAnswer:
        job = Job.begin(service, scope, service.models.choose(item.model), waits=True)
        upload = await job.read(item.image, item.fit)
        layout = job.layout_of(upload, item.overlap)
        tokens = await job.encode(upload.fitted.pixels, layout)
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

    return await _run(request, service, query, TokenizeItem, "image", one, TokenizeItemAnswer)


@router.post(
    "/detokenize/batch",
    response_model=BatchAnswer[PictureItemAnswer],
    responses=_PROBLEMS,
    openapi_extra=_body(DetokenizeBatchBody),
)
async def detokenize_batch(
    request: Request, service: ServiceOf, query: Annotated[PictureItemOptions, Query()]
) -> Response:
    """Turn several token sets into images; each has its own outcome."""

    async def one(scope: RequestScope, item: DetokenizeItem) -> PictureItemAnswer:
        sent = item.sent()
        served = model_for(service.models, sent, item.model)
        job = Job.begin(service, scope, served, waits=True)
        tokens = received_tokens(service, job, sent)
        options = decode_options(service, job.info, item)
        found = await job.decode(tokens, options, item.format, item.quality)
        return _picture(job, options, item.format, found)

    return await _run(request, service, query, DetokenizeItem, "container", one, PictureItemAnswer)


@router.post(
    "/reconstruct/batch",
    response_model=BatchAnswer[PictureItemAnswer],
    responses=_PROBLEMS,
    openapi_extra=_body(ReconstructBatchBody),
)
async def reconstruct_batch(
    request: Request, service: ServiceOf, query: Annotated[ReconstructItemOptions, Query()]
) -> Response:
    """Turn several images into tokens and these into images; each has its own outcome."""

    async def one(scope: RequestScope, item: ReconstructItem) -> PictureItemAnswer:
        job = Job.begin(service, scope, service.models.choose(item.model), waits=True)
        options = decode_options(service, job.info, item)
        upload = await job.read(item.image, item.fit)
        layout, pixels = job.layout_of(upload, item.overlap), upload.fitted.pixels
        found = await job.reconstruct(pixels, options, item.format, item.quality, layout)
        return _picture(job, options, item.format, found, upload)

    return await _run(request, service, query, ReconstructItem, "image", one, PictureItemAnswer)


async def _run(
    request: Request,
    service: Service,
    query: BaseModel,
    kind: type[I],
    field: str,
    work: Callable[[RequestScope, I], Awaitable[A]],
    answer: type[A],
) -> Response:
    """Answer a batch request.

    Args:
        request: A request whose body has not been read.
        service: The parts that all routes share.
        query: The options from the query string.
        kind: The type of one item.
        field: The field of ``kind`` that a file of a form becomes.
        work: Makes the outcome of one item.
        answer: The type of one item's outcome.
    """
    settings = service.settings
    # Whoever sends many pictures at once waits for the whole; whoever sends one is waited for.
    with service.admit(request, priority="batch") as scope:
        batch = await read_batch(
            request,
            kind,
            query,
            field=field,
            seconds=settings.body_seconds,
            max_items=settings.max_items,
            max_values=service.max_token_values if issubclass(kind, TokensBody) else 0,
        )
        making = outcomes(batch, lambda item: work(scope, item), service.feed, scope.call)
        found = await until_disconnect(request, making)
    return _answer(service, request, found, answer)


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
        rho=sampler.rho if sampler.schedule == "power" else None,
        guidance=sampler.guidance,
        degraded_from=None if sampler.steps == asked else asked,
        cache=found.outcome,
    )


def _answer(
    service: Service, request: Request, found: Sequence[A | Exception], kind: type[A]
) -> Response:
    items = []
    for outcome in found:
        if isinstance(outcome, Exception):
            problem = explained(service, request, outcome)
            items.append(kind(status=problem.status, problem=problem))
        else:
            items.append(outcome)
    failed = sum(isinstance(outcome, Exception) for outcome in found)
    answer = BatchAnswer[kind](  # type: ignore[valid-type]
        succeeded=len(items) - failed, failed=failed, items=items
    )
    return Response(answer.model_dump_json(exclude_none=True), media_type=JSON)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
