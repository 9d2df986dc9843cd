"""OpenTelemetry spans: one a request, and one a stage of it, in the trace that the client began.

Only ``opentelemetry-api`` is always there; it passes trace ids on and records nothing. Where an
OTLP endpoint is configured (``OTEL_EXPORTER_OTLP_ENDPOINT``), spans are exported.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from model.errors import ConfigError
from service.version import VERSION

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVICE = "flowmo-serve"
_INTERNAL = 500

_tracer = trace.get_tracer(_SERVICE, VERSION)


def export_spans(environment: Mapping[str, str] = os.environ) -> Callable[[], None]:
    """Send spans to the endpoint that the environment names, if it names one.

    Once a process: OpenTelemetry's settings are the process'.

    Returns:
        What sends those that are left, at the end.

    Raises:
        ConfigError: there is an endpoint, and nothing to send spans with.
    """
    if not any(environment.get(name) for name in ENDPOINTS):
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(
            f"{' or '.join(ENDPOINTS)} is set, and the exporter is not installed; install it with "
            f"pip install 'flowmo-serve[tracing]', or unset it"
        ) from None
    name = environment.get("OTEL_SERVICE_NAME", _SERVICE)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown


@contextmanager
def request_span(method: str, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """The span of a request; what runs in the block is inside.

    Args:
        method: of HTTP.
        path: without the query.
        headers: ``traceparent`` and ``tracestate`` name the span that caused it.
    """
    with _tracer.start_as_current_span(
        method,
        context=propagate.extract(headers),
        kind=SpanKind.SERVER,
        attributes={"http.request.method": method, "url.path": path},
    ) as span:
        yield span


def answered(span: Span, method: str, route: str, status: int) -> None:
    """Say how a request was answered."""
    span.update_name(f"{method} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status})
    if status >= _INTERNAL:
        span.set_status(StatusCode.ERROR)


def trace_id() -> str | None:
    """Of the current span, 32 hex digits; None outside of any trace."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def record_stages(stages: Mapping[str, float], **attributes: str | int) -> None:
    """Spans of stages that have just ended, one after the other.

    Args:
        stages: seconds of each, in their order.
        attributes: of each.
    """
    at = time.time_ns() - round(sum(stages.values()) * 1e9)
    for stage, seconds in stages.items():
        span = _tracer.start_span(stage, start_time=at, attributes=attributes)
        at += round(seconds * 1e9)
        span.end(end_time=at)
