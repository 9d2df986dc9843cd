"""What the service counts, for Prometheus.

One registry an application, so that several can live in one process (tests do).
"""

import platform

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from service.codec import CodecInfo
from service.engine import Engine, Timings
from service.version import VERSION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds, from a cached health check to a long decode on a CPU.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

STAGES = ("decode_image", "queue", "encode", "sample", "encode_image")


class Metrics:
    """The series of one application.

    Args:
        engine: its places and queue are read at each scrape.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Histogram(
            "flowmo_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            ["method", "route", "status"],
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self._stages = Histogram(
            "flowmo_stage_duration_seconds",
            "Parts of a request: decode_image, queue, encode, sample, encode_image.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self._steps = Histogram(
            "flowmo_step_duration_seconds",
            "One sampler step of one batch.",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "flowmo_requests_in_flight", "HTTP requests being answered.", registry=registry
        )
        self.errors = Counter(
            "flowmo_errors",
            "Requests answered with a problem, by its code.",
            ["code"],
            registry=registry,
        )
        for name, text, read in (
            ("flowmo_admitted_requests", "Requests that hold a place.", lambda: engine.admitted),
            ("flowmo_capacity_requests", "Places for requests.", lambda: engine.capacity),
            ("flowmo_queue_depth", "Work that waits for the device.", lambda: engine.waiting),
            ("flowmo_ready", "1 after the warm-up.", lambda: float(engine.ready)),
        ):
            Gauge(name, text, registry=registry).set_function(read)
        Info("flowmo_build", "What runs here.", registry=registry).info(_build(engine.info))
        for stage in STAGES:  # so that every series is there from the first scrape
            self._stages.labels(stage)

    def stage(self, stage: str, seconds: float) -> None:
        """Count one part of a request."""
        assert stage in STAGES, stage
        self._stages.labels(stage).observe(seconds)

    def steps(self, timings: Timings) -> None:
        """Count the sampler steps of a decode."""
        for seconds in timings.steps:
            self._steps.observe(seconds)

    def render(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self._registry)


def _build(info: CodecInfo) -> dict[str, str]:
    return {
        "version": VERSION,
        "python": platform.python_version(),
        "model": info.name,
        "fingerprint": info.fingerprint,
        "device": info.device,
        "dtype": info.dtype,
    }
