"""What is served."""

from fastapi import APIRouter

from service.routes.shared import ServiceOf
from service.wire import ModelMessage, ModelsAnswer

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
async def list_models(service: ServiceOf) -> ModelsAnswer:
    """Name, weights, token shape and default sampler of what is served."""
    engines = service.engines
    message = ModelMessage.of(
        engines.info, max_steps=service.settings.max_steps, ready=engines.ready
    )
    return ModelsAnswer(models=[message])
