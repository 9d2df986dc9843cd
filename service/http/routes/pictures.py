"""Pictures by address: what browsers, caches and content delivery networks can keep."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from flowmo.imaging.writing import OUTPUT_MEDIA_TYPES, ImageFormat
from flowmo.model.container import Container
from flowmo.service.http.disconnect import until_disconnect
from flowmo.service.http.job import Job
from flowmo.service.http.keys import Keyring
from flowmo.service.http.picture_identity import (
    MAX_ADDRESS,
    cache_control,
    container_in,
    has_it,
    tag_of,
)
from flowmo.service.http.routes.shared import (
    ServiceOf,
    binary_content,
    decode_options,
    model_headers,
    name_headers,
    problems,
    received_tokens,
    sampling_headers,
)
from flowmo.service.http.token_sets import model_for
from flowmo.service.http.wire.options import QualityOptions, SamplingOptions

router = APIRouter(prefix="/v1", tags=["pictures"])

_MEDIA_TYPES = {format: media_type for media_type, format in OUTPUT_MEDIA_TYPES.items()}


class AddressOptions(SamplingOptions, QualityOptions):
    """The query of a picture's address."""

    degrade: Literal["never"] = Field(
        default="never", description="An address means one picture, whatever the load."
    )
    format: ImageFormat = Field(default="png", description="Of the file; Accept says nothing here.")

    @property
    def says_all(self) -> bool:
        """Whether nothing is left to the model's default sampler."""
        given = (self.steps, self.schedule, self.guidance)
        return None not in given and (self.schedule == "linear" or self.rho is not None)


@router.head("/pictures/{container}", include_in_schema=False)
@router.get(
    "/pictures/{container}",
    response_class=Response,
    responses={
        200: {"description": "The image.", "content": binary_content(*OUTPUT_MEDIA_TYPES)},
        304: {"description": "The client has it already: If-None-Match names its ETag."},
        **problems(400, 404, 409, 413, 422, 429, 500, 503, 504),
    },
)
async def picture(
    request: Request,
    service: ServiceOf,
    container: Annotated[
        str, Path(max_length=MAX_ADDRESS, description="A token container, base64url.")
    ],
    query: Annotated[AddressOptions, Query()],
) -> Response:
    """Decode the tokens in the address; the same address is always the same picture.

    HEAD, and a request whose `If-None-Match` names the picture's `ETag`, decode nothing.
    """
    sent = Container.from_bytes(container_in(container))
    served = model_for(service.models, sent, None)
    info = served.engines.info
    tokens = received_tokens(service, info, sent)
    options = decode_options(service, info, query)
    tag = tag_of(tokens, options.seed, options.sampler, query.format, query.quality)
    keyring: Keyring = request.app.state.keyring
    kept = {
        "ETag": tag,
        "Cache-Control": cache_control(says_all=query.says_all, is_public=not keyring.guards),
    }
    media_type = _MEDIA_TYPES[query.format]
    if has_it(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=kept)
    if request.method == "HEAD":
        headers = kept | name_headers(served.name, info.fingerprint)
        headers |= sampling_headers(options, options.sampler) | {"Content-Type": media_type}
        answer = Response(headers=headers)
        del answer.headers["content-length"]  # that of the picture is not known
        return answer
    with service.admit(request) as scope:
        job = Job.begin(service, scope, served)
        work = job.decode(tokens, options, query.format, query.quality)
        found = await until_disconnect(request, work)
    headers = kept | model_headers(job) | sampling_headers(options, found.value.sampler)
    del headers["Vary"]  # Accept says nothing here
    headers["Flowmo-Cache"] = found.outcome
    return Response(found.value.data, headers=headers, media_type=media_type)
