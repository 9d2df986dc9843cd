"""Routes for orchestrators and Prometheus."""

from fastapi import APIRouter, Request, Response

from flowmo.service.errors import EngineStoppedError, NotReadyError
from flowmo.service.http.routes.shared import ServiceOf, problems

router = APIRouter(tags=["operations"])
metrics_router = APIRouter(tags=["operations"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses=problems(503))
async def healthz(service: ServiceOf) -> dict[str, str]:
    """Whether the process should go on living: 503 when its device hangs or fails for good."""
    if (complaint := service.models.complaint) is not None:
        raise EngineStoppedError(complaint)
    return {"status": "ok"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=problems(503))
async def readyz(service: ServiceOf) -> dict[str, str]:
    """Whether to send requests here: 503 until the warm-up is done."""
    if (complaint := service.models.complaint) is not None:
        raise EngineStoppedError(complaint)
    if not service.models.ready:
        raise NotReadyError("the models are warming up")
    return {"status": "ready"}


@metrics_router.get("/metrics", response_class=Response)
async def metrics(request: Request, service: ServiceOf) -> Response:
    """All series as they are now, in Prometheus' text format, or in OpenMetrics' if asked for."""
    shown = service.render_metrics(request.headers.get("accept", ""))
    return Response(shown.body, headers={"Content-Type": shown.content_type, "Vary": "Accept"})
