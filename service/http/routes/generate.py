"""Classes and seeds to tokens, or to images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from flowmo.imaging.writing import OUTPUT_MEDIA_TYPES
from flowmo.model.config import SamplerConfig
from flowmo.model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE
from flowmo.service.engine.calls import DecodeOptions
from flowmo.service.engine.generate_calls import Generated, GenerateOptions
from flowmo.service.engine.model_info import PriorInfo
from flowmo.service.errors import FieldProblem, InvalidFieldsError
from flowmo.service.http import streaming
from flowmo.service.http.cache import CacheResult
from flowmo.service.http.disconnect import until_disconnect
from flowmo.service.http.generate_body import GenerateRequest, read_generate
from flowmo.service.http.generate_stream import GenerateStream
from flowmo.service.http.generation import Generation, check_limits, generating_model, wish_of
from flowmo.service.http.job import Job
from flowmo.service.http.negotiation import choose
from flowmo.service.http.openapi import schema_ref
from flowmo.service.http.request_scope import RequestScope
from flowmo.service.http.routes.shared import (
    ServiceOf,
    binary_content,
    explained,
    model_headers,
    problems,
    received_tokens,
)
from flowmo.service.http.service import Service
from flowmo.service.http.wire.generate import GenerateAnswer, GenerateBody, GeneratedItem
from flowmo.service.http.wire.generate import GenerateOptions as GenerateQuery
from flowmo.service.http.wire.tokens import TokensMessage

router = APIRouter(prefix="/v1", tags=["generation"])

IMAGES = tuple(OUTPUT_MEDIA_TYPES)
OFFERS = ("application/json", CONTAINER_MEDIA_TYPE, *IMAGES, streaming.MEDIA_TYPE)


@router.post(
    "/generate",
    response_model=GenerateAnswer,
    responses={
        200: {
            "description": "Tokens as JSON ids or as a packed container; or the image, or its "
            "making as events.",
            "content": {
                **binary_content(CONTAINER_MEDIA_TYPE, *IMAGES),
                streaming.MEDIA_TYPE: {"schema": streaming.EVENT_SCHEMA},
            },
        },
        **problems(400, 404, 406, 408, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "requestBody": {
            "required": False,
            "content": {"application/json": {"schema": schema_ref(GenerateBody)}},
        }
    },
)
async def generate(
    request: Request, service: ServiceOf, query: Annotated[GenerateQuery, Query()]
) -> Response:
    """Generate new images of a class; the same class, seed and options give the same image.

    With `tokens` or `container` and `mask` some tokens are kept and the others are new. With
    `stream=true`, or `Accept: text/event-stream`, the answer is Server-Sent Events as of
    detokenize, with the tokens of the image in the last one's `container`.
    """
    media_type = choose(request.headers.get("accept"), OFFERS)
    with service.admit(request) as scope:
        asked = await read_generate(
            request,
            query,
            seconds=service.settings.body_seconds,
            max_values=service.max_edit_values,
        )
        served = generating_model(service.models, asked.options.model, asked.sent)
        job = Job.begin(service, scope, served)
        generation = Generation(service, scope, job)
        is_stream = asked.options.stream or media_type == streaming.MEDIA_TYPE
        check_limits(service, asked.options)
        _check_count(service, asked.options, alone=is_stream or media_type != OFFERS[0])
        options = _options(service, job, generation, asked)
        if is_stream:
            return await _stream(service, scope, job, generation, options, asked, media_type)
        wishes = [
            replace(options, seed=options.seed + index) for index in range(asked.options.count)
        ]
        found = await until_disconnect(request, generation.several(wishes))
        first = found[0]
        headers = generation_headers(options, first.value, generation.prior)
        headers["Flowmo-Cache"] = first.outcome
        if media_type in OUTPUT_MEDIA_TYPES:
            sampler = _decode_sampler(job, asked.options.decode_steps)
            picture = await until_disconnect(
                request,
                job.decode(
                    generation.image_tokens(first.value),
                    DecodeOptions(seed=options.seed, sampler=sampler),
                    OUTPUT_MEDIA_TYPES[media_type],
                    asked.options.quality,
                ),
            )
            headers |= model_headers(job) | {"Flowmo-Decode-Steps": str(sampler.steps)}
            return Response(picture.value.data, headers=headers, media_type=media_type)
    headers |= model_headers(job)
    if media_type == CONTAINER_MEDIA_TYPE:
        data = generation.image_tokens(first.value).to_bytes()
        return Response(data, headers=headers, media_type=media_type)
    answer = GenerateAnswer(
        prior=generation.prior.fingerprint,
        class_=class_of(generation.prior, options.class_number),
        guidance=options.sampler.guidance,
        temperature=options.sampler.temperature,
        items=_items(job, generation, wishes, found),
    )
    text = answer.model_dump_json(by_alias=True)
    return Response(text, headers=headers, media_type=media_type)


def class_of(prior: PriorInfo, number: int) -> str | int | None:
    """A class as people know it: by name where it has one, None for none."""
    config = prior.config
    if number == config.null_class:
        return None
    return config.class_names[number] if config.class_names else number


def generation_headers(
    options: GenerateOptions, generated: Generated, prior: PriorInfo
) -> dict[str, str]:
    """The headers that say how tokens were generated; sent back as parameters they repeat it.

    Args:
        options: The options that the client asked for.
        generated: What was made.
        prior: What made it.
    """
    name = class_of(prior, options.class_number)
    sampler = generated.sampler
    headers = {
        "Flowmo-Prior": generated.prior,
        "Flowmo-Class": "none" if name is None else quote(str(name)),
        "Flowmo-Seed": str(options.seed),
        "Flowmo-Steps": str(sampler.steps),
        "Flowmo-Guidance": repr(sampler.guidance),
        "Flowmo-Temperature": repr(sampler.temperature),
    }
    if sampler.steps != options.sampler.steps:
        headers["Flowmo-Degraded-From"] = str(options.sampler.steps)
    return headers


def _check_count(service: Service, options: GenerateQuery, *, alone: bool) -> None:
    """Refuse more images than this server makes in one request, or the answer can hold.

    Raises:
        InvalidFieldsError: There are more.
    """
    most = 1 if alone else service.settings.max_items
    if options.count > most:
        more = "; several are answered as JSON alone" if alone else ""
        message = f"must be 1 to {most}, got {options.count}{more}"
        raise InvalidFieldsError([FieldProblem(field="count", message=message)])


def _options(
    service: Service, job: Job, generation: Generation, asked: GenerateRequest
) -> GenerateOptions:
    """Apply a client's choices over a prior's defaults.

    Raises:
        ConfigError: There is no such class.
        FlowMoError: The tokens to keep are of another model, or have another shape.
    """
    options = wish_of(generation.prior, asked.options)
    if asked.sent is None or asked.mask is None:
        return options
    tokens = received_tokens(service, job.info, asked.sent)
    return generation.kept(options, tokens, asked.mask)


def _decode_sampler(job: Job, steps: int | None) -> SamplerConfig:
    return job.info.sampler.changed(steps=steps)


def _items(
    job: Job,
    generation: Generation,
    wishes: Sequence[GenerateOptions],
    found: Sequence[CacheResult[Generated]],
) -> list[GeneratedItem]:
    items = []
    for wish, result in zip(wishes, found, strict=True):
        steps, asked = result.value.sampler.steps, wish.sampler.steps
        items.append(
            GeneratedItem(
                seed=wish.seed,
                steps=steps,
                degraded_from=None if steps == asked else asked,
                cache=result.outcome,
                tokens=TokensMessage.of(job.name, generation.image_tokens(result.value)),
            )
        )
    return items


async def _stream(
    service: Service,
    scope: RequestScope,
    job: Job,
    generation: Generation,
    options: GenerateOptions,
    asked: GenerateRequest,
    media_type: str,
) -> Response:
    """Answer with the generation as events."""
    final = _decode_sampler(job, asked.options.decode_steps)
    stream = GenerateStream(
        generation,
        job,
        scope,
        media_type=media_type if media_type in OUTPUT_MEDIA_TYPES else IMAGES[0],
        quality=asked.options.quality,
        preview=_decode_sampler(job, asked.options.preview_steps),
        final=final,
    )
    start = stream.start(options, asked.options.previews, scope.resources)
    await until_disconnect(scope.request, start)

    def describe(generated: Generated) -> dict[str, str]:
        headers = generation_headers(options, generated, generation.prior)
        return model_headers(job) | headers | {"Flowmo-Decode-Steps": str(final.steps)}

    def explain(error: Exception) -> str:
        return explained(service, scope.request, error).model_dump_json(exclude_none=True)

    events = stream.events(describe, explain)
    return streaming.EventStream(events, scope.resources.pop_all(), model_headers(job))
