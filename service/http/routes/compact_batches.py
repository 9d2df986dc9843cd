"""Batches of tokens in the forms that are no JSON, as answers and as bodies."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from fastapi import Request, Response

from flowmo.imaging.worker import SquareImage
from flowmo.model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE
from flowmo.model.errors import FlowMoError
from flowmo.model.image_tokens import ImageTokens
from flowmo.service.errors import FieldProblem, InvalidFieldsError, NotAcceptableError
from flowmo.service.http.batches import Split
from flowmo.service.http.job import Job
from flowmo.service.http.routes.shared import explained, name_headers
from flowmo.service.http.service import Service
from flowmo.service.http.token_files import (
    ARRAYS,
    PACKED,
    TokenArray,
    largest_file,
    split_containers,
    split_packed,
)

TOKEN_FORMS = (CONTAINER_MEDIA_TYPE, *ARRAYS, PACKED)
STATUS_HEADER = "Flowmo-Item-Status"


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """One item of a batch, with what made it."""

    job: Job
    tokens: ImageTokens
    upload: SquareImage


def compact_answer(
    service: Service,
    request: Request,
    found: Sequence[EncodedItem | Exception],
    media_type: str,
    *,
    model: str | None,
) -> Response:
    """Answer with the token sets of a batch.

    Args:
        service: The parts that all routes share.
        request: The request.
        found: The outcome of each item.
        media_type: One of :data:`TOKEN_FORMS`.
        model: The model that was asked for, whose shapes an array without any token set has.

    Raises:
        NotAcceptableError: The items are of several models, which one array cannot hold.
    """
    made = [item for item in found if isinstance(item, EncodedItem)]
    status = [
        explained(service, request, item).status if isinstance(item, Exception) else HTTPStatus.OK
        for item in found
    ]
    headers = {STATUS_HEADER: ",".join(f"{one:d}" for one in status), "Vary": "Accept"}
    if media_type == CONTAINER_MEDIA_TYPE:
        data = b"".join(item.tokens.to_bytes() for item in made)
        return Response(data, headers=headers, media_type=media_type)
    if len({item.job.fingerprint for item in made}) > 1:
        raise NotAcceptableError(
            f"the items are of several models, which {media_type} cannot say; ask for "
            f"{CONTAINER_MEDIA_TYPE} or JSON"
        )
    if made:
        name, info, fingerprint = made[0].job.name, made[0].job.info, made[0].job.fingerprint
    else:
        served = service.models.choose(model)
        name, info = served.name, served.engines.info
        fingerprint = info.fingerprint
    headers |= name_headers(name, fingerprint)
    if media_type == PACKED:
        data = b"".join(item.tokens.pack() for item in made)
    else:
        tokens = [None if isinstance(item, Exception) else item.tokens for item in found]
        array = TokenArray.of(
            tokens, info.config, fingerprint=fingerprint, model=name, status=status
        )
        data = array.to_bytes(media_type)
    return Response(data, headers=headers, media_type=media_type)


def token_items(
    service: Service, media_type: str, *, name: str | None, fingerprint: str | None
) -> Split:
    """What makes the items of a detokenize batch of a body in one of :data:`TOKEN_FORMS`.

    Args:
        service: The parts that all routes share.
        media_type: The form.
        name: The model that was asked for.
        fingerprint: The weights of packed bits, if the client says them.
    """
    most = service.settings.max_items
    if media_type == CONTAINER_MEDIA_TYPE:
        return lambda data: [{"container": one} for one in split_containers(data, most=most)]
    if media_type == PACKED:
        return lambda data: [
            {"container": one.to_bytes()}
            for one in split_packed(
                data, service.models, name=name, fingerprint=fingerprint, most=most
            )
        ]
    return partial(_rows, service, media_type, name)


def _rows(service: Service, media_type: str, name: str | None, data: bytes) -> Sequence[object]:
    pictures = service.settings.max_items
    most = largest_file(service.models, pictures)
    array = TokenArray.from_bytes(data, media_type, most=most)
    if array.ids.ndim == 3 and len(array.ids) > pictures:
        text = f"must be 1 to {pictures} items, got {len(array.ids)}"
        raise InvalidFieldsError([FieldProblem(field="body", message=text)])
    items: list[object] = []
    for index, found in enumerate(array.containers(service.models, name)):
        if array.status is not None and array.status[index] != HTTPStatus.OK:
            text = f"has the status {array.status[index]}: it was not tokenized"
            items.append(InvalidFieldsError([FieldProblem(field=f"items.{index}", message=text)]))
        elif isinstance(found, FlowMoError):
            items.append(found)
        else:
            items.append({"container": found.to_bytes()})
    return items
