"""The route that lists what is served."""

from fastapi import APIRouter

from flowmo.service.http.routes.shared import ServiceOf
from flowmo.service.http.wire.models import ModelMessage, ModelsAnswer

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
async def list_models(service: ServiceOf) -> ModelsAnswer:
    """Name, weights, token shape and default sampler of each model; the first is the default."""
    most = service.settings.max_steps
    return ModelsAnswer(
        models=[
            ModelMessage.of(
                served.name, served.engines.info, max_steps=most, ready=served.engines.ready
            )
            for served in service.models
        ]
    )
