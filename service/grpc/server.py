"""The gRPC server: the same models, keys, limits and errors as over HTTP, on a port of its own."""

import asyncio
import ipaddress
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from starlette.datastructures import Headers

from flowmo.service.errors import (
    MalformedBodyError,
    NotReadyError,
    TensorError,
    UnavailableError,
)
from flowmo.service.grpc.conversion import answer_of, code_of, config_of, parsed
from flowmo.service.grpc.conversion import statistics_of as statistics_message
from flowmo.service.grpc.messages import (
    HEALTH_MESSAGES,
    HEALTH_SERVICE,
    MESSAGES,
    NOT_SERVING,
    SERVICE,
    SERVING,
)
from flowmo.service.http.access import let_in
from flowmo.service.http.deadlines import DEADLINE_HEADER
from flowmo.service.http.keys import Keyring
from flowmo.service.http.middleware import REQUEST_ID_HEADER, usable_request_id
from flowmo.service.http.oip import models
from flowmo.service.http.oip.infer import (
    check_ready,
    index_of,
    infer,
    region_reader,
    statistics_of,
    version_of,
    versions_of,
)
from flowmo.service.http.oip.shared_memory import Region
from flowmo.service.http.problems import INTERNAL, Answer, answer_for
from flowmo.service.http.routes.inference import server_description
from flowmo.service.http.service import Service
from flowmo.service.telemetry import logs

logger = logging.getLogger(__name__)

# Beside those that are admitted: questions about health and models, and those to be refused.
_QUESTIONS = 64
_LARGE_BYTES = 256 * 1024
_LEAST_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and how.

    Attributes:
        key: The name of the API key; None where no key is needed.
        headers: The call's metadata.
        request_id: The call's id.
        is_local: Whether the call came from this machine.
        seconds: The seconds until the call's deadline; None if it has none.
    """

    key: str | None
    headers: Headers
    request_id: str
    is_local: bool
    seconds: float | None


Method = Callable[[Any, Caller], Awaitable[Any]]


class InferenceServicer:
    """The methods of the protocol's service.

    Args:
        service: The parts that it shares with the HTTP routes.
        keyring: The API keys.
    """

    def __init__(self, service: Service, keyring: Keyring) -> None:
        self._service, self._keyring = service, keyring

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Everything that the server answers."""
        public = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
        }
        methods: dict[str, Method] = {
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "ModelInfer": self._infer,
            "SystemSharedMemoryStatus": self._regions,
            "SystemSharedMemoryRegister": self._register,
            "SystemSharedMemoryUnregister": self._unregister,
            "CudaSharedMemoryStatus": _nothing("CudaSharedMemoryStatusResponse"),
            "CudaSharedMemoryUnregister": _nothing("CudaSharedMemoryUnregisterResponse"),
        }
        unary: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, method, is_public=True))
            for name, method in public.items()
        } | {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name, method))
            for name, method in methods.items()
        }
        unary["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        health: dict[str, Any] = {"Check": grpc.unary_unary_rpc_method_handler(self._check)}
        return [
            grpc.method_handlers_generic_handler(SERVICE, unary),
            grpc.method_handlers_generic_handler(HEALTH_SERVICE, health),
        ]

    # --- calls --------------------------------------------------------------------------------

    def _unary(
        self, name: str, method: Method, *, is_public: bool = False
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        kind = MESSAGES["ModelInferRequest" if name == "ModelInfer" else f"{name}Request"]

        async def behave(data: bytes, context: Any) -> bytes:
            with self._observed(name, context) as told:
                try:
                    async with self._caller(context, told, is_public=is_public) as caller:
                        message = await _read(kind, data)
                        answer: bytes = (await method(message, caller)).SerializeToString()
                        return answer
                except Exception as error:  # noqa: BLE001  (every error has a status)
                    await self._abort(context, error, told)
                raise AssertionError

        return behave

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Infer one request after the other; what is wrong with one ends none of the others."""
        with self._observed("ModelStreamInfer", context) as told:
            try:
                async with self._caller(context, told) as caller:
                    async for data in requests:
                        yield await self._streamed(data, caller)
            except Exception as error:  # noqa: BLE001
                await self._abort(context, error, told)

    async def _streamed(self, data: bytes, caller: Caller) -> bytes:
        kind = MESSAGES["ModelStreamInferResponse"]
        try:
            message = await _read(MESSAGES["ModelInferRequest"], data)
            found = kind(infer_response=await self._infer(message, caller))
        except Exception as error:  # noqa: BLE001  (this request's answer)
            found = kind(error_message=self._explained(error)[1])
        answer: bytes = found.SerializeToString()
        return answer

    @contextmanager
    def _observed(self, name: str, context: Any) -> Iterator["_Told"]:
        """Count, time and log a call, as the HTTP routes are."""
        headers = _headers(context)
        told = _Told(usable_request_id(headers.get(REQUEST_ID_HEADER)) or uuid.uuid4().hex)
        logs.request_id.set(told.request_id)
        route = f"/{SERVICE}/{name}"
        begin = time.perf_counter()
        with self._service.metrics.in_flight():
            try:
                yield told
            except asyncio.CancelledError:
                told.status = 499
                raise
            finally:
                seconds = time.perf_counter() - begin
                self._service.metrics.request("POST", route, told.status, seconds)
                logs.log_answer(
                    method="POST",
                    path=route,
                    route=route,
                    status=told.status,
                    seconds=seconds,
                    key=told.key,
                    headers={},
                )

    @asynccontextmanager
    async def _caller(
        self, context: Any, told: "_Told", *, is_public: bool = False
    ) -> AsyncIterator[Caller]:
        headers, local = _headers(context), _is_local(context.peer())
        remaining: float | None = context.time_remaining()
        if is_public:
            yield Caller(None, headers, told.request_id, local, remaining)
            return
        kind, _, key = headers.get("authorization", "").partition(" ")
        presented = key.strip() if kind.lower() == "bearer" else None
        async with let_in(self._keyring, self._service, presented, is_local=local) as name:
            told.key = name
            yield Caller(name, headers, told.request_id, local, remaining)

    async def _abort(self, context: Any, error: Exception, told: "_Told") -> None:
        answer, text = self._explained(error)
        told.status = answer.status
        metadata = [("flowmo-code", answer.code), (REQUEST_ID_HEADER.lower(), told.request_id)]
        cause = getattr(error, "error", error)  # of a row
        if isinstance(cause, UnavailableError):
            metadata.append(("retry-after", str(cause.retry_after)))
        await context.abort(code_of(answer.status), text, tuple(metadata))

    def _explained(self, error: Exception) -> tuple[Answer, str]:
        answer = answer_for(error)
        self._service.metrics.errors.inc(answer.code)
        if answer is INTERNAL:
            logger.error("a call failed", exc_info=error)
        detail = "an unexpected error occurred" if answer is INTERNAL else str(error)
        return answer, f"{answer.code}: {detail} {answer.hint}"

    # --- methods ------------------------------------------------------------------------------

    async def _live(self, _: Any, __: Caller) -> Any:
        return MESSAGES["ServerLiveResponse"](live=self._service.models.alive)

    async def _ready(self, _: Any, __: Caller) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self._service.models.ready)

    async def _check(self, data: bytes, context: Any) -> bytes:
        """The standard health check, which Kubernetes and load balancers ask."""
        name = HEALTH_MESSAGES["HealthCheckRequest"].FromString(data).service
        if name not in {"", SERVICE}:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        status = SERVING if self._service.models.ready else NOT_SERVING
        answer: bytes = HEALTH_MESSAGES["HealthCheckResponse"](status=status).SerializeToString()
        return answer

    async def _server(self, _: Any, __: Caller) -> Any:
        return MESSAGES["ServerMetadataResponse"](**server_description(self._service))

    async def _model_ready(self, message: Any, _: Caller) -> Any:
        try:
            check_ready(self._service, message.name, message.version or None)
        except NotReadyError:
            return MESSAGES["ModelReadyResponse"](ready=False)
        return MESSAGES["ModelReadyResponse"](ready=True)

    async def _metadata(self, message: Any, _: Caller) -> Any:
        served = version_of(self._service, message.name, message.version or None)
        versions = versions_of(self._service, message.name)
        described = models.metadata(message.name, served.engines.info, versions)
        return MESSAGES["ModelMetadataResponse"](**described)

    async def _config(self, message: Any, _: Caller) -> Any:
        info = version_of(self._service, message.name, message.version or None).engines.info
        most = self._service.settings.max_items
        return config_of(models.configuration(message.name, info, most))

    async def _statistics(self, message: Any, _: Caller) -> Any:
        found = statistics_of(self._service, message.name or None, message.version or None)
        return statistics_message(found)

    async def _index(self, message: Any, _: Caller) -> Any:
        found = index_of(self._service, ready=message.ready)
        return MESSAGES["RepositoryIndexResponse"](models=found)

    async def _infer(self, message: Any, caller: Caller) -> Any:
        service, name = self._service, message.model_name
        served = version_of(service, name, message.model_version or None)
        headers = caller.headers.mutablecopy()
        if caller.seconds is not None:
            headers[DEADLINE_HEADER] = repr(max(caller.seconds, _LEAST_SECONDS))
        size = message.ByteSize()
        scope, admission = service.enter(
            headers,
            size,
            key=caller.key,
            usage=None if caller.key is None else self._keyring.usage_of(caller.key),
            request_id=caller.request_id,
        )
        with scope:
            admission.arrived(size)
            admission.complete()
            read_region = region_reader(service, caller.key, is_local=caller.is_local)
            request = await asyncio.to_thread(parsed, message, read_region)
            work = infer(service, scope, caller.key, name, served, request)
            found = await scope.cancellation.until_cancelled(work)
            return answer_of(found, model=name, version=served.name, id=message.id)

    async def _regions(self, message: Any, caller: Caller) -> Any:
        answer = MESSAGES["SystemSharedMemoryStatusResponse"]()
        for one in self._service.regions.of(caller.key, message.name or None):
            region = answer.regions[one.name]
            region.name, region.key = one.name, one.key
            region.offset, region.byte_size = one.offset, one.byte_size
        return answer

    async def _register(self, message: Any, caller: Caller) -> Any:
        if not caller.is_local:
            raise TensorError("only clients on the server's own machine share memory")
        region = Region(
            name=message.name,
            key=message.key,
            offset=message.offset,
            byte_size=message.byte_size,
        )
        self._service.regions.register(caller.key, region)
        return MESSAGES["SystemSharedMemoryRegisterResponse"]()

    async def _unregister(self, message: Any, caller: Caller) -> Any:
        self._service.regions.unregister(caller.key, message.name or None)
        return MESSAGES["SystemSharedMemoryUnregisterResponse"]()


@dataclass(slots=True)
class _Told:
    """What the log says of a call."""

    request_id: str
    status: int = 200
    key: str | None = None


def _nothing(name: str) -> Method:
    async def answer(_: Any, __: Caller) -> Any:
        return MESSAGES[name]()

    return answer


async def _read(kind: Any, data: bytes) -> Any:
    try:
        if len(data) > _LARGE_BYTES:
            return await asyncio.to_thread(kind.FromString, data)
        return kind.FromString(data)
    except DecodeError:
        raise MalformedBodyError("the message cannot be read") from None


def _headers(context: Any) -> Headers:
    pairs = [
        (name.encode(), value.encode() if isinstance(value, str) else value)
        for name, value in context.invocation_metadata() or ()
    ]
    return Headers(raw=pairs)


def _is_local(peer: str) -> bool:
    """Whether gRPC's name of a client, e.g. ``ipv4:127.0.0.1:4711``, is one of this machine."""
    family, _, rest = unquote(peer).partition(":")
    if family == "unix":
        return True
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@asynccontextmanager
async def serve_grpc(service: Service, keyring: Keyring, port: int) -> AsyncIterator[int]:
    """Answer gRPC calls while the block runs; then what has begun is finished.

    Args:
        service: The parts that it shares with the HTTP routes.
        keyring: The API keys.
        port: The port, on the host of the settings; 0 takes a free one.

    Yields:
        The port.

    Raises:
        RuntimeError: The port is taken.
    """
    settings = service.settings
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_concurrent_requests + _QUESTIONS,
        options=[
            ("grpc.max_receive_message_length", settings.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", settings.max_header_bytes),
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers(tuple(InferenceServicer(service, keyring).handlers()))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    bound = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    logger.info("gRPC on %s:%d", host, bound)
    try:
        yield bound
    finally:
        await server.stop(settings.drain_seconds)
