"""The Open Inference Protocol, version 2: ``tokenize`` and ``detokenize`` as models.

A version of either is a model that is served; no version is the default one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from flowmo._version import __version__
from flowmo.imaging.reading import Pixels
from flowmo.model.container import Container
from flowmo.model.errors import ContainerError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE
from flowmo.model.tokens import Tokens
from flowmo.service.errors import NotReadyError, RowError, TensorError, UnknownModelError
from flowmo.service.http.access import AUTHORIZED
from flowmo.service.http.bodies import BINARY, JSON, media_type_of, parse_aside, read_body
from flowmo.service.http.disconnect import until_disconnect
from flowmo.service.http.job import Job
from flowmo.service.http.oip import models
from flowmo.service.http.oip.models import DETOKENIZE, TOKENIZE, ImageParameters, PictureParameters
from flowmo.service.http.oip.tensors import InferAnswer, InferRequest, Parsed, Tensor, encode, parse
from flowmo.service.http.openapi import schema_ref
from flowmo.service.http.picture import shaped
from flowmo.service.http.problems import Answer, error_headers
from flowmo.service.http.routes.shared import (
    ServiceOf,
    binary_content,
    decode_options,
    model_headers,
    received_tokens,
)
from flowmo.service.http.service import Service

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

LENGTH_HEADER = "Inference-Header-Content-Length"

TOKENIZE_OUTPUTS, DETOKENIZE_OUTPUTS = ("ids", "container"), ("image", "file")

R = TypeVar("R")
S = TypeVar("S")


class InferenceErrorAnswer(BaseModel):
    """Any error, as the protocol has it."""

    error: str


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Make the OpenAPI entries of errors in the protocol's form."""
    return {status: {"model": InferenceErrorAnswer} for status in statuses}


_ERRORS = error_responses(401, 404, 422, 429, 503)
_INFER_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON, or with Inference-Header-Content-Length JSON and raw tensors.",
        "content": binary_content(BINARY),
    },
    **error_responses(400, 401, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504),
}
_INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": schema_ref(InferRequest)}, **binary_content(BINARY)},
    }
}


def _check_name(name: str) -> None:
    if name not in {TOKENIZE, DETOKENIZE}:
        raise UnknownModelError(
            f"there is no model {name[:64]!r} in this protocol; there are {TOKENIZE} and "
            f"{DETOKENIZE}, with the models that are served as versions"
        )


@router.get("")
async def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "flowmo-serve", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", responses=error_responses(503))
async def live(service: ServiceOf) -> dict[str, bool]:
    """Whether the process should go on living, as /healthz."""
    if (complaint := service.models.complaint) is not None:
        raise NotReadyError(complaint)
    return {"live": True}


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", responses=error_responses(503))
async def ready(service: ServiceOf) -> dict[str, bool]:
    """Whether to send requests here, as /readyz."""
    if not service.models.ready:
        raise NotReadyError("the models are warming up")
    return {"ready": True}


@router.get("/models/{name}", dependencies=[AUTHORIZED], responses=_ERRORS)
@router.get("/models/{name}/versions/{version}", dependencies=[AUTHORIZED], responses=_ERRORS)
async def model_metadata(
    service: ServiceOf, name: str, version: str | None = None
) -> dict[str, Any]:
    """The tensors of a model, and its versions: the models that are served."""
    _check_name(name)
    served = service.models.choose(version)
    return models.metadata(name, served.engines.info, [s.name for s in service.models])


@router.get("/models/{name}/ready", dependencies=[AUTHORIZED], responses=_ERRORS)
@router.get("/models/{name}/versions/{version}/ready", dependencies=[AUTHORIZED], responses=_ERRORS)
async def model_ready(service: ServiceOf, name: str, version: str | None = None) -> dict[str, Any]:
    """Whether a model takes requests."""
    _check_name(name)
    if not service.models.choose(version).engines.ready:
        raise NotReadyError("the model is warming up")
    return {"name": name, "ready": True}


@router.post(
    "/models/{name}/infer",
    dependencies=[AUTHORIZED],
    response_model=InferAnswer,
    responses=_INFER_RESPONSES,
    openapi_extra=_INFER_BODY,
)
@router.post(
    "/models/{name}/versions/{version}/infer",
    dependencies=[AUTHORIZED],
    response_model=InferAnswer,
    responses=_INFER_RESPONSES,
    openapi_extra=_INFER_BODY,
)
async def infer(
    request: Request,
    service: ServiceOf,
    name: str,
    version: str | None = None,
    header_length: Annotated[str | None, Header(alias=LENGTH_HEADER)] = None,
) -> Response:
    """Run a model on some rows. The protocol has no partial results: one that fails fails all."""
    _check_name(name)
    media_type_of(request)  # a compressed body is refused
    served = service.models.choose(version)
    with service.admit(request) as scope:
        body = await read_body(request, service.settings.body_seconds)
        most = service.max_tensor_values
        parsed = await parse_aside(
            request, body, lambda body: parse(body, header_length, max_values=most)
        )
        job = Job.begin(service, scope, served, waits=True)
        run = _tokenize if name == TOKENIZE else _detokenize
        outputs = await until_disconnect(request, run(service, job, parsed))
    known = TOKENIZE_OUTPUTS if name == TOKENIZE else DETOKENIZE_OUTPUTS
    binary = models.wanted_outputs(parsed.request, known)
    answer = InferAnswer(model_name=name, model_version=served.name, id=parsed.request.id)
    encoded = encode(answer, outputs, [binary[tensor.name] for tensor in outputs])
    headers = model_headers(job)
    if encoded.header_length is None:
        return Response(encoded.body, headers=headers, media_type=JSON)
    headers[LENGTH_HEADER] = str(encoded.header_length)
    return Response(encoded.body, headers=headers, media_type=BINARY)


def error_response(answer: Answer, detail: str, error: Exception) -> Response:
    """Answer an error in the protocol's form; status and headers are those of the other routes."""
    text = f"{answer.code}: {detail} {answer.hint}"
    return JSONResponse({"error": text}, answer.status, headers=error_headers(answer, error))


async def _tokenize(service: Service, job: Job, parsed: Parsed) -> list[Tensor]:
    options = models.options_of(parsed.request, ImageParameters)
    wanted = models.wanted_outputs(parsed.request, TOKENIZE_OUTPUTS)
    sent = models.one_of(parsed, "image", "file")

    async def from_file(data: bytes) -> ImageTokens:
        upload = await job.read(data, options.fit)
        layout = job.layout_of(upload, DEFAULT_OVERLAP_SHARE)
        if "ids" in wanted and layout.tiles > 1:
            raise TokenError(
                f"a picture of {layout.width} x {layout.height} pixels takes {layout.tiles} "
                f"tiles, and a row of ids is one: ask for the output container alone"
            )
        return await job.encode(upload.fitted.pixels, layout)

    if sent.name == "image":
        found = await _rows(service, job, models.pixels_of(sent, job.info), job.encode)
    else:
        found = await _rows(service, job, models.elements(sent), from_file)
    outputs: dict[str, Tensor] = {}
    if "ids" in wanted:
        config = job.info.config
        shape = (len(found), config.code_length, config.ids_per_token)
        ids = np.array([tokens.ids for tokens in found], np.int32).reshape(shape)
        outputs["ids"] = Tensor("ids", shape, ids)
    if "container" in wanted:
        packed = [tokens.to_bytes() for tokens in found]
        outputs["container"] = Tensor("container", (len(found),), packed)
    return [outputs[name] for name in wanted]


async def _detokenize(service: Service, job: Job, parsed: Parsed) -> list[Tensor]:
    options = models.options_of(parsed.request, PictureParameters)
    wanted = models.wanted_outputs(parsed.request, DETOKENIZE_OUTPUTS)
    sent = models.one_of(parsed, "ids", "container", also=("seed",))
    tokens: list[Tokens] = []
    if sent.name == "ids":
        tokens = models.token_sets_of(sent, job.info)
    else:
        for row, data in enumerate(models.elements(sent)):
            try:
                tokens.append(received_tokens(service, job, Container.from_bytes(data)))
            except (ContainerError, TokenError) as error:
                raise RowError(row, error) from None
    seeds = models.seeds_of(parsed, len(tokens), options.seed)
    base = decode_options(service, job.info, options)

    async def one(work: tuple[Tokens, int]) -> Pixels:
        made = (await job.pixels(work[0], replace(base, seed=work[1]))).pixels
        layout = work[0].layout if isinstance(work[0], ImageTokens) else None
        pixels = made if layout is None else shaped(made, layout, None)
        size = job.info.image_size
        if "image" in wanted and pixels.shape != (size, size, 3):
            raise TokenError(
                f"the tokens are of a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels, "
                f"and a row of the tensor image is {size} x {size}: ask for the output file alone"
            )
        return pixels

    found = await _rows(service, job, list(zip(tokens, seeds, strict=True)), one)
    outputs: dict[str, Tensor] = {}
    if "image" in wanted:
        size = job.info.image_size
        shape = (len(found), size, size, 3)
        outputs["image"] = Tensor("image", shape, np.array(found, np.uint8).reshape(shape))
    if "file" in wanted:
        files = [await job.render(pixels, options.format, options.quality) for pixels in found]
        outputs["file"] = Tensor("file", (len(files),), files)
    return [outputs[name] for name in wanted]


async def _rows(
    service: Service, job: Job, rows: Sequence[S], work: Callable[[S], Awaitable[R]]
) -> list[R]:
    """Do ``work`` for the rows, as many at once as the engines have room for.

    Raises:
        TensorError: There are too many rows.
        RowError: A row failed.
    """
    limit = service.settings.max_items
    if len(rows) > limit:
        raise TensorError(f"{len(rows)} rows came, at most {limit} are taken at once")

    async def fed(row: S) -> R:
        return await service.feed.run(job.call, lambda: work(row))

    results = await asyncio.gather(*map(fed, rows), return_exceptions=True)
    for row, result in enumerate(results):
        if isinstance(result, Exception):
            raise RowError(row, result)
    return [result for result in results if not isinstance(result, BaseException)]
