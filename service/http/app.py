"""The application factory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from flowmo._version import __version__
from flowmo.service.errors import FieldProblem, InvalidFieldsError, RowError
from flowmo.service.http.access import AUTHORIZED
from flowmo.service.http.admission import AdmissionLimiter
from flowmo.service.http.cancellation import CancelAnywhere
from flowmo.service.http.content_coding import ContentCoding
from flowmo.service.http.cross_origin import allow_origins
from flowmo.service.http.form import Form
from flowmo.service.http.keys import KeyEntry, Keyring, Usage, read_text
from flowmo.service.http.middleware import BodyLimit, RequestContext, request_id_of
from flowmo.service.http.openapi import describe
from flowmo.service.http.problems import ANSWERS, Answer, answer_for, problem_response
from flowmo.service.http.quota_store import quota_store
from flowmo.service.http.routes import (
    batches,
    generate,
    health,
    inference,
    pictures,
    playground,
    requests,
    shared_memory,
    tokens,
)
from flowmo.service.http.routes import models as model_routes
from flowmo.service.http.routes.shared import problems
from flowmo.service.http.service import Service
from flowmo.service.http.shutdown import ShutdownAnswers
from flowmo.service.models import Models
from flowmo.service.reloading import reload_on_hangup
from flowmo.service.settings import Settings
from flowmo.service.telemetry.metrics import Metrics
from flowmo.service.telemetry.tracing import flush_spans

# How old what one gateway says of another of the same machine is, at most.
WORKER_SAMPLE_SECONDS = 1.0
# Asked by machines every few seconds; what they hear in a warm-up is no error of a request.
_PROBES = {"/healthz", "/readyz"}
DESCRIPTION = "Images to compact tokens and back, with the FlowMo diffusion autoencoder."


def create_app(
    models: Models,
    metrics: Metrics,
    settings: Settings | None = None,
    *,
    form: Form = Form.ALONE,
    cancel_elsewhere: CancelAnywhere | None = None,
    usage: Callable[[str, KeyEntry], Usage] | None = None,
) -> FastAPI:
    """Make an application that serves some models.

    Their engines start, and warm up, with the application; they finish what they have on shutdown.
    On SIGHUP they are loaded again.

    Args:
        models: The models that are served.
        metrics: The series in which everything is counted.
        settings: The operator's settings; from the environment by default.
        form: Whether this is one of several gateways, to which others give their models.
        cancel_elsewhere: Cancels requests that came to other gateways.
        usage: Makes what counts the use of a key, given its name and limits; this process counts
            for itself without it. A quota store in the settings takes its place.

    Raises:
        KeysError: The API keys cannot be read.
        ConfigError: The quota store in the settings cannot be used.
    """
    settings = settings or Settings()
    store = quota_store(settings, metrics.quota_alone.inc)
    counted = store.usage if store else usage
    keyring = Keyring(read_text(settings.api_keys), settings.api_keys_file, counted)
    limiter = AdmissionLimiter(settings.max_concurrent_requests, settings.max_concurrent_bytes)

    async def reload() -> None:
        keyring.reload()
        if form is Form.ALONE:  # elsewhere others replace models
            await models.reload(settings.drain_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        models.start()
        async with AsyncExitStack() as around:
            await around.enter_async_context(store or nullcontext())
            if form is Form.CLUSTER:
                await around.enter_async_context(service.sampling())
            if form is Form.WORKERS:
                await around.enter_async_context(service.sampling(WORKER_SAMPLE_SECONDS))
            if form is not Form.CLUSTER:
                await around.enter_async_context(reload_on_hangup(reload))
                await around.enter_async_context(grpc_beside(service, keyring))
            yield
        await models.close(settings.drain_seconds)
        await service.image_readers.close()
        await asyncio.to_thread(flush_spans)

    app = FastAPI(
        title="flowmo-serve",
        version=__version__,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,  # the framework's pages fetch scripts from elsewhere
        redoc_url=None,
    )
    app.state.keyring = keyring
    app.state.cancel_elsewhere = cancel_elsewhere
    app.state.large_body = asyncio.Lock()  # see bodies.parse_aside
    app.state.service = service = Service(models, limiter, settings, metrics)
    if form is not Form.CLUSTER:  # one of several gateways would show its own share only
        app.include_router(health.metrics_router)
    app.include_router(health.router)
    if settings.playground:
        app.include_router(playground.router)
    app.include_router(inference.router)
    if form is Form.ALONE:  # the next request may come to another gateway
        app.include_router(shared_memory.router)
    app.include_router(requests.router)
    routers = (
        tokens.router,
        generate.router,
        batches.router,
        pictures.router,
        model_routes.router,
    )
    for router in routers:
        app.include_router(router, dependencies=[AUTHORIZED], responses=problems(401, 429))
    # The last one added is the outermost.
    app.add_middleware(ContentCoding)
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_body_bytes, send_seconds=settings.send_seconds
    )
    if form is not Form.CLUSTER:  # there a gateway is cancelled only with its client
        app.add_middleware(ShutdownAnswers, metrics=metrics)
    allow_origins(app, settings.cors_origins)
    app.add_middleware(RequestContext, metrics=metrics, answers_id=form is not Form.CLUSTER)
    _answer_errors(app, metrics)
    describe(app, models.default.engines.info)
    return app


@asynccontextmanager
async def grpc_beside(service: Service, keyring: Keyring) -> AsyncIterator[None]:
    """Answer gRPC calls, too, while the block runs, if the settings name a port for them."""
    port = service.settings.grpc_port
    if port is None:
        yield
        return
    from flowmo.service.grpc.server import serve_grpc  # an extra

    async with serve_grpc(service, keyring, port):
        yield


def _answer_errors(app: FastAPI, metrics: Metrics) -> None:
    def respond(request: Request, error: Exception, answer: Answer, detail: str) -> Response:
        if request.url.path not in _PROBES:  # which ask while it warms up, and mean no request
            metrics.errors.inc(answer.code)
        request.scope["state"]["problem"] = answer.code
        if request.url.path.startswith(inference.router.prefix):
            return inference.error_response(answer, detail, error)
        return problem_response(
            answer, detail, request_id=request_id_of(request.scope), error=error
        )

    async def known(request: Request, error: Exception) -> Response:
        return respond(request, error, answer_for(error), str(error))

    async def unknown(request: Request, error: Exception) -> Response:
        # Starlette raises it again after this, and the server logs it.
        return respond(request, error, answer_for(error), "an unexpected error occurred")

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = [
            FieldProblem(field=".".join(str(part)[:64] for part in e["loc"]), message=e["msg"])
            for e in error.errors()[:16]
        ]
        fields = InvalidFieldsError(found)
        return respond(request, fields, answer_for(fields), str(fields))

    async def by_framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answer = Answer(
            status=error.status_code,
            code={404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "http"),
            title=error.detail,
            hint="See /openapi.json for the routes and their methods.",
        )
        response = respond(request, error, answer, f"{request.method}: {error.detail}")
        response.headers.update(error.headers or {})
        return response

    for kind in (*ANSWERS, RowError):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, by_framework)
    app.add_exception_handler(Exception, unknown)
