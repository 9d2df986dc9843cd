"""What several routes need: their service, headers, and entries of the OpenAPI document."""

import logging
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request
from pydantic import BaseModel

from flowmo.imaging.formats import MEDIA_TYPES
from flowmo.imaging.worker import SquareImage
from flowmo.model.config import SamplerConfig
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.layout import PictureLayout
from flowmo.service.engine.calls import DecodeOptions
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.errors import FieldProblem, InvalidFieldsError
from flowmo.service.http.job import Job
from flowmo.service.http.middleware import request_id_of
from flowmo.service.http.openapi import schema_ref
from flowmo.service.http.problems import (
    ANSWERS,
    INTERNAL,
    PROBLEM_MEDIA_TYPE,
    Answer,
    Problem,
    answer_for,
    problem,
)
from flowmo.service.http.service import Service
from flowmo.service.http.token_sets import SentTokens, tokens_for
from flowmo.service.http.wire.options import SamplingOptions

logger = logging.getLogger(__name__)


def get_service(request: Request) -> Service:
    """The parts of the application that answers the request."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(get_service)]


def decode_options(service: Service, info: ModelInfo, options: SamplingOptions) -> DecodeOptions:
    """Apply a client's choices over a model's defaults.

    Raises:
        InvalidFieldsError: The client asked for more steps than this server allows.
        ConfigError: The choices do not go together.
    """
    limit = service.settings.max_steps
    if options.steps is not None and options.steps > limit:
        problem = FieldProblem(field="steps", message=f"must be 1 to {limit}, got {options.steps}")
        raise InvalidFieldsError([problem])
    return DecodeOptions(
        seed=options.seed,
        sampler=options.sampler(info.sampler),
        degrade=options.degrade == "allow",
    )


def model_headers(job: Job) -> dict[str, str]:
    """The headers of every answer that a model had a part in."""
    return {
        **name_headers(job.name, job.fingerprint),
        "Server-Timing": job.clock.header(),
        "Vary": "Accept",
    }


def name_headers(name: str, fingerprint: str) -> dict[str, str]:
    """The headers that say which model, under its name and with which weights, did the work."""
    return {"Flowmo-Model": quote(name), "Flowmo-Fingerprint": fingerprint}


def sampling_headers(options: DecodeOptions, sampler: SamplerConfig) -> dict[str, str]:
    """The headers that say how a picture was decoded; sent back as parameters they repeat it.

    Args:
        options: The options that the client asked for.
        sampler: The sampler that was used.
    """
    headers = {
        "Flowmo-Seed": str(options.seed),
        "Flowmo-Steps": str(sampler.steps),
        "Flowmo-Schedule": sampler.schedule,
        "Flowmo-Guidance": repr(sampler.guidance),
    }
    if sampler.has_rho:
        headers["Flowmo-Rho"] = repr(sampler.rho)
    if sampler.steps != options.sampler.steps:
        headers["Flowmo-Degraded-From"] = str(options.sampler.steps)
    return headers


def upload_headers(upload: SquareImage) -> dict[str, str]:
    """The headers that say what was uploaded and how it was fitted."""
    report = upload.fitted.report
    return {
        "Flowmo-Upload-Size": f"{report.width}x{report.height}",
        "Flowmo-Fit": report.fit,
        "Flowmo-Fit-Source": ",".join(map(str, report.source)),
        "Flowmo-Fit-Target": ",".join(map(str, report.target)),
    }


def tile_headers(job: Job, layout: PictureLayout) -> dict[str, str]:
    """The headers that say how many tiles and bytes of tokens a picture is."""
    return {
        "Flowmo-Tiles": str(layout.tiles),
        "Flowmo-Token-Bytes": str(layout.tiles * job.info.config.payload_bytes),
    }


def received_tokens(service: Service, info: ModelInfo, sent: SentTokens) -> ImageTokens:
    """Take tokens as a model can decode them, within the server's limits.

    Raises:
        FlowMoError: As :func:`tokens_for`.
    """
    settings = service.settings
    return tokens_for(sent, info, max_pixels=settings.max_pixels, max_tiles=settings.max_tiles)


def explained(service: Service, request: Request, error: Exception) -> Problem:
    """Explain an error inside an answer that is otherwise well; it is counted like any other."""
    answer = answer_for(error)
    service.metrics.errors.inc(answer.code)
    if answer is INTERNAL:
        logger.error("a part of an answer failed", exc_info=error)
    detail = "an unexpected error occurred" if answer is INTERNAL else str(error)
    return problem(answer, detail, request_id=request_id_of(request.scope), error=error)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Make the OpenAPI entries of the problems that a route may answer."""
    entries: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        answers = {answer.code: answer for answer in ANSWERS.values() if answer.status == status}
        examples = {code: {"value": _example(answers[code])} for code in sorted(answers)}
        entries[status] = {
            "description": "Problem: " + ", ".join(sorted(answers)),
            "content": {PROBLEM_MEDIA_TYPE: {"schema": schema_ref(Problem), "examples": examples}},
        }
    return entries


def _example(answer: Answer) -> dict[str, Any]:
    detail = "what happened this time"
    return problem(answer, detail, request_id="mine").model_dump(exclude_none=True)


def binary_content(*media_types: str) -> dict[str, Any]:
    """Make the OpenAPI content of files."""
    schema = {"type": "string", "format": "binary"}
    return {media_type: {"schema": schema} for media_type in media_types}


def image_request_body(body_type: type[BaseModel], options: type[BaseModel]) -> dict[str, Any]:
    """Make the OpenAPI request body of an uploaded image in its three forms."""
    form = options.model_json_schema()
    form["properties"] = {
        "image": {"type": "string", "format": "binary"},
        **form["properties"],
    }
    form["required"] = ["image"]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                **binary_content(*MEDIA_TYPES, "application/octet-stream"),
                "application/json": {"schema": schema_ref(body_type)},
            },
        }
    }
