"""OpenTelemetry: a span for each stage of a request, in the trace that the client began.

FastAPI makes the spans of the request itself. Only ``opentelemetry-api`` is always there; it passes
trace ids on and records nothing. Where an OTLP endpoint is configured
(``OTEL_EXPORTER_OTLP_ENDPOINT``), spans are exported.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate, trace

from flowmo._version import __version__
from flowmo.model.errors import ConfigError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVICE = "flowmo-serve"

_tracer = trace.get_tracer(_SERVICE, __version__)


def export_spans(environment: Mapping[str, str] = os.environ) -> None:
    """Send spans to the endpoint that the environment names, if it names one.

    Once a process: OpenTelemetry's settings are the process'.

    Raises:
        ConfigError: There is an endpoint, and nothing to send spans with.
    """
    if not any(environment.get(name) for name in ENDPOINTS):
        return
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


def flush_spans() -> None:
    """Send the spans that are left, which takes a while if nobody answers."""
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:  # the API alone has none
        flush()


@contextmanager
def in_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """Be in the trace that a client began, where nothing records spans.

    Where something does, FastAPI has begun the request's span before.

    Args:
        headers: The request's headers; ``traceparent`` and ``tracestate`` name the span that
            caused it.
    """
    if trace.get_current_span().get_span_context().is_valid:
        yield
        return
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)


def trace_id() -> str | None:
    """The id of the current trace, 32 hex digits; None outside of any."""
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else None


def exemplar_trace() -> str | None:
    """The id of the current trace if it is recorded, so that whoever follows it finds something.

    A client that sends ``traceparent`` says whether it records; without its trace, and without an
    endpoint that spans are exported to, there is nothing to follow.
    """
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid and span.trace_flags.sampled else None


def record_stages(stages: Mapping[str, float], **attributes: str | int) -> None:
    """Record the spans of stages that have just ended, one after the other.

    Args:
        stages: The seconds of each stage, in the order in which they happened.
        attributes: What each span says in addition to its name.
    """
    at = time.time_ns() - round(sum(stages.values()) * 1e9)
    for stage, seconds in stages.items():
        span = _tracer.start_span(stage, start_time=at, attributes=attributes)
        at += round(seconds * 1e9)
        span.end(end_time=at)
