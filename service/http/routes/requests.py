"""Requests by their ids."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, Field

from flowmo.service.errors import UnknownRequestError
from flowmo.service.http.access import identified
from flowmo.service.http.cancellation import CancelAnywhere
from flowmo.service.http.middleware import REQUEST_ID
from flowmo.service.http.routes.shared import ServiceOf, problems

router = APIRouter(prefix="/v1", tags=["requests"])


class CancelAnswer(BaseModel):
    """What became of a cancellation."""

    id: str = Field(description="The X-Request-ID of what was cancelled.")
    cancelled: int = Field(
        description="Requests that ended with it; 0 where they had been cancelled before."
    )


# The key is asked for, and nothing of what it may use is used up: a key whose only place is taken
# must be able to free it.
@router.post("/requests/{id}/cancel", responses=problems(401, 404, 422))
async def cancel(
    request: Request,
    service: ServiceOf,
    key: Annotated[str | None, Depends(identified)],
    id: Annotated[str, Path(pattern=f"^{REQUEST_ID}$")],  # noqa: A002  (the path's name)
) -> CancelAnswer:
    """Give up the requests that the same key has sent under an `X-Request-ID`.

    They are answered with 499 `cancelled`, and their decodes end before their next step. Asked
    again, it answers the same.
    """
    count = service.requests.cancel(key, id)
    elsewhere: CancelAnywhere | None = request.app.state.cancel_elsewhere
    if not count and elsewhere is not None:
        found = await elsewhere(key, id)
        count = found if count is None else count + (found or 0)
    if count is None:
        raise UnknownRequestError(
            f"there is no request {id!r} of this sender inside: it has been answered, or never came"
        )
    return CancelAnswer(id=id, cancelled=count)
