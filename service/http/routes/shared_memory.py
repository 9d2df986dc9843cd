"""The shared-memory extensions of the Open Inference Protocol; CUDA's is never shared."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from flowmo.service.errors import TensorError
from flowmo.service.http.access import AUTHORIZED, is_local
from flowmo.service.http.oip.shared_memory import Region
from flowmo.service.http.routes.inference import error_responses
from flowmo.service.http.routes.shared import ServiceOf

_RESPONSES = error_responses(400, 401, 422, 429)
router = APIRouter(
    prefix="/v2",
    strict_content_type=False,  # Triton's client sends none
    tags=["Open Inference Protocol"],
    dependencies=[AUTHORIZED],
    responses=_RESPONSES,
)


class RegisterRequest(BaseModel):
    """A region that a client shares."""

    key: str = Field(max_length=255, description="Of the POSIX shared-memory object.")
    offset: int = Field(default=0, ge=0, lt=2**63)
    byte_size: int = Field(ge=1, lt=2**63)


def owner_of(request: Request) -> str | None:
    """The name of the API key whose regions a request is about."""
    owner: str | None = request.scope["state"].get("key")
    return owner


OwnerOf = Annotated[str | None, Depends(owner_of)]


@router.get("/systemsharedmemory/status")
@router.get("/systemsharedmemory/region/{name}/status")
async def status(
    service: ServiceOf, owner: OwnerOf, name: str | None = None
) -> list[dict[str, Any]]:
    """The regions that the key has registered."""
    return [
        {"name": one.name, "key": one.key, "offset": one.offset, "byte_size": one.byte_size}
        for one in service.regions.of(owner, name)
    ]


@router.post("/systemsharedmemory/region/{name}/register")
async def register(
    request: Request, service: ServiceOf, owner: OwnerOf, name: str, region: RegisterRequest
) -> dict[str, Any]:
    """Share a region with the server; of a client on the server's own machine."""
    if not is_local(request.scope):
        raise TensorError("only clients on the server's own machine share memory")
    service.regions.register(
        owner,
        Region(name=name, key=region.key, offset=region.offset, byte_size=region.byte_size),
    )
    return {}


@router.post("/systemsharedmemory/unregister")
@router.post("/systemsharedmemory/region/{name}/unregister")
async def unregister(service: ServiceOf, owner: OwnerOf, name: str | None = None) -> dict[str, Any]:
    """Forget a region, or all of the key's."""
    service.regions.unregister(owner, name)
    return {}


@router.get("/cudasharedmemory/status")
async def cuda_status() -> list[dict[str, Any]]:
    """No region is ever shared."""
    return []


@router.post("/cudasharedmemory/unregister")
async def cuda_unregister() -> dict[str, Any]:
    """Load tools ask for it before they begin."""
    return {}
