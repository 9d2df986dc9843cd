"""What the service counts, for Prometheus.

One registry an application, so that several can live in one process (tests do).
"""

import logging
import platform
from typing import get_args

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
from service.engine.local import LocalEngines
from service.engine.observer import Half, Refusal
from service.places import Places
from service.version import VERSION

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds, from a cached health check to a long decode on a CPU.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)

HALVES: tuple[Half, ...] = get_args(Half)
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)
STAGES = ("decode_image", "queue", "encode", "sample", "encode_image")


class Metrics:
    """The series of one application; the observer of its engines."""

    def __init__(self) -> None:
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
            "One batch of the decoder: a sampler step of each picture in it.",
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
        self._rows = Histogram(
            "flowmo_batch_rows",
            "Rows of a batch, padding left out.",
            ["half"],
            buckets=_ROW_BUCKETS,
            registry=registry,
        )
        self._padding = Counter(
            "flowmo_batch_padding_rows",
            "Rows computed only to fill a batch size.",
            ["half"],
            registry=registry,
        )
        self._refused = Counter(
            "flowmo_engine_refused",
            "Pictures that an engine did not take, by reason.",
            ["half", "reason"],
            registry=registry,
        )
        self._cancelled = Counter(
            "flowmo_engine_cancelled",
            "Pictures that nobody waited for any more.",
            ["half"],
            registry=registry,
        )
        self._failed = Counter(
            "flowmo_engine_failed", "Pictures whose batch failed.", ["half"], registry=registry
        )
        self._saved = Counter(
            "flowmo_steps_saved",
            "Sampler steps not made: of cancelled decodes, or by degrading.",
            ["reason"],
            registry=registry,
        )
        for half in HALVES:  # so that every series is there from the first scrape
            for counter in (self._padding, self._cancelled, self._failed):
                counter.labels(half)
            for reason in REFUSALS:
                self._refused.labels(half, reason)
            self._rows.labels(half)
        for why in ("cancelled", "degraded"):
            self._saved.labels(why)
        for stage in STAGES:  # so that every series is there from the first scrape
            self._stages.labels(stage)

    def stage(self, stage: str, seconds: float) -> None:
        """Count one part of a request."""
        assert stage in STAGES, stage
        self._stages.labels(stage).observe(seconds)

    def watch(self, engines: LocalEngines, places: Places) -> None:
        """Read engines and places at each scrape."""
        device = engines.device
        for name, text, read in (
            ("flowmo_admitted_requests", "Requests that hold a place.", lambda: places.taken),
            ("flowmo_capacity_requests", "Places for requests.", lambda: places.capacity),
            ("flowmo_admitted_bytes", "Bytes of bodies inside.", lambda: places.taken_bytes),
            ("flowmo_queue_depth", "Pictures inside the engines.", lambda: engines.waiting),
            (
                "flowmo_backlog_seconds",
                "Time until all decodes that are inside would be done.",
                lambda: engines.decoder.backlog_seconds,
            ),
            (
                "flowmo_device_busy_seconds",
                "Age of the running batch.",
                lambda: device.busy_seconds,
            ),
            ("flowmo_ready", "1 after the warm-up.", lambda: float(engines.ready)),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)
        Info("flowmo_build", "What runs here.", registry=self._registry).info(_build(engines.info))

    def batch(self, half: Half, *, rows: int, bucket: int, seconds: float) -> None:
        """See :class:`EngineObserver`."""
        self._rows.labels(half).observe(rows)
        self._padding.labels(half).inc(bucket - rows)
        if half == "decode":
            self._steps.observe(seconds)

    def refused(self, half: Half, why: Refusal) -> None:
        """See :class:`EngineObserver`."""
        self._refused.labels(half, why).inc()

    def cancelled(self, half: Half, steps_saved: int) -> None:
        """See :class:`EngineObserver`."""
        self._cancelled.labels(half).inc()
        if half == "decode":
            self._saved.labels("cancelled").inc(steps_saved)

    def failed(self, half: Half, works: int, error: Exception) -> None:
        """See :class:`EngineObserver`."""
        self._failed.labels(half).inc(works)
        logger.error("a batch of %d failed to %s", works, half, exc_info=error)

    def degraded(self, steps_saved: int) -> None:
        """See :class:`EngineObserver`."""
        self._saved.labels("degraded").inc(steps_saved)

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
