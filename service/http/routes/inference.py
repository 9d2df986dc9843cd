"""The Open Inference Protocol, version 2: ``tokenize``, ``detokenize`` and ``generate`` as models.

A version of each is a model that is served; no version is the default one.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from flowmo._version import __version__
from flowmo.service.errors import NotReadyError
from flowmo.service.http.access import AUTHORIZED, is_local
from flowmo.service.http.bodies import BINARY, JSON, media_type_of, parse_aside, read_body
from flowmo.service.http.disconnect import until_disconnect
from flowmo.service.http.oip import models
from flowmo.service.http.oip.infer import (
    check_ready,
    index_of,
    region_reader,
    statistics_of,
    version_of,
    versions_of,
)
from flowmo.service.http.oip.infer import infer as run_inference
from flowmo.service.http.oip.tensors import InferAnswer, InferRequest, encode, parse
from flowmo.service.http.openapi import schema_ref
from flowmo.service.http.problems import Answer, error_headers
from flowmo.service.http.routes.shared import ServiceOf, binary_content, model_headers
from flowmo.service.http.service import Service

# Triton's client sends no Content-Type.
router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], strict_content_type=False)

LENGTH_HEADER = "Inference-Header-Content-Length"

SERVER_NAME = "flowmo-serve"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics", "model_repository"]


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


@router.get("")
async def server_metadata(service: ServiceOf) -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return server_description(service)


def server_description(service: Service) -> dict[str, Any]:
    """Name, version and extensions of the server, as the protocol has them."""
    shared = ["system_shared_memory"] if service.regions.enabled else []
    return {"name": SERVER_NAME, "version": __version__, "extensions": [*EXTENSIONS, *shared]}


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


@router.get("/models/stats", dependencies=[AUTHORIZED], responses=_ERRORS)
@router.get("/models/{name}/stats", dependencies=[AUTHORIZED], responses=_ERRORS)
@router.get("/models/{name}/versions/{version}/stats", dependencies=[AUTHORIZED], responses=_ERRORS)
async def model_statistics(
    service: ServiceOf, name: str | None = None, version: str | None = None
) -> dict[str, Any]:
    """What has been asked of each model since the start, and where the time went."""
    return {"model_stats": statistics_of(service, name, version)}


@router.get("/models/{name}", dependencies=[AUTHORIZED], responses=_ERRORS)
@router.get("/models/{name}/versions/{version}", dependencies=[AUTHORIZED], responses=_ERRORS)
async def model_metadata(
    service: ServiceOf, name: str, version: str | None = None
) -> dict[str, Any]:
    """The tensors of a model, and its versions: the models that are served."""
    served = version_of(service, name, version)
    return models.metadata(name, served.engines.info, versions_of(service, name))


@router.get("/models/{name}/ready", dependencies=[AUTHORIZED], responses=_ERRORS)
@router.get("/models/{name}/versions/{version}/ready", dependencies=[AUTHORIZED], responses=_ERRORS)
async def model_ready(service: ServiceOf, name: str, version: str | None = None) -> dict[str, Any]:
    """Whether a model takes requests."""
    check_ready(service, name, version)
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
    """Run a model on some rows.

    A row that fails fails the request, unless the output `error` is asked for: then the others
    come, and it says what became of each.
    """
    served = version_of(service, name, version)
    media_type_of(request)  # a compressed body is refused
    owner = request.scope["state"].get("key")
    with service.admit(request) as scope:
        body = await read_body(request, service.settings.body_seconds)
        most = service.max_tensor_values
        read_region = region_reader(service, owner, is_local=is_local(request.scope))
        parsed = await parse_aside(
            request,
            body,
            lambda body: parse(body, header_length, max_values=most, read_region=read_region),
        )
        work = run_inference(service, scope, owner, name, served, parsed)
        found = await until_disconnect(request, work)
    answer = InferAnswer(model_name=name, model_version=served.name, id=parsed.request.id)
    encoded = encode(answer, found.outputs, found.placements)
    headers = model_headers(found.job)
    if encoded.header_length is None:
        return Response(encoded.body, headers=headers, media_type=JSON)
    headers[LENGTH_HEADER] = str(encoded.header_length)
    return Response(encoded.body, headers=headers, media_type=BINARY)


@router.get("/models/{name}/config", dependencies=[AUTHORIZED], responses=_ERRORS)
@router.get(
    "/models/{name}/versions/{version}/config", dependencies=[AUTHORIZED], responses=_ERRORS
)
async def model_config(service: ServiceOf, name: str, version: str | None = None) -> dict[str, Any]:
    """The tensors of a row, and how many rows a request may have."""
    info = version_of(service, name, version).engines.info
    return models.configuration(name, info, service.settings.max_items)


class IndexRequest(BaseModel):
    """Which models the index is to have."""

    ready: bool = False


@router.post("/repository/index", dependencies=[AUTHORIZED], responses=_ERRORS)
async def repository_index(
    service: ServiceOf, wanted: IndexRequest | None = None
) -> list[dict[str, str]]:
    """All models with their versions and states; models are loaded by the operator alone."""
    return index_of(service, ready=wanted is not None and wanted.ready)


def error_response(answer: Answer, detail: str, error: Exception) -> Response:
    """Answer an error in the protocol's form; status and headers are those of the other routes."""
    text = f"{answer.code}: {detail} {answer.hint}"
    return JSONResponse({"error": text}, answer.status, headers=error_headers(answer, error))
