"""The service's series."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, get_args

from flowmo._version import __version__
from flowmo.model.layout import PictureLayout
from flowmo.service.engine.observer import EngineKind, RefusalReason
from flowmo.service.http.admission import AdmissionLimiter
from flowmo.service.http.cache import CacheOutcome
from flowmo.service.telemetry.gpu_memory import GpuMemory
from flowmo.service.telemetry.instruments import Exposition, Instruments
from flowmo.service.telemetry.model_memory import ModelMemory
from flowmo.service.telemetry.tracing import exemplar_trace

if TYPE_CHECKING:
    from flowmo.service.models import Models, Served

logger = logging.getLogger(__name__)

# Seconds, from a cached health check to a long decode on a CPU.
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TILE_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096)
_PIXEL_BUCKETS = (1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8)
_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)

ENGINES: tuple[EngineKind, ...] = get_args(EngineKind)
REFUSAL_REASONS: tuple[RefusalReason, ...] = get_args(RefusalReason)
STAGES = ("decode_image", "queue", "encode", "generate", "sample", "encode_image")


class EngineMetrics:
    """The series of engines, each with its model's label.

    Args:
        instruments: Make the series.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.gpu_memory = GpuMemory(instruments)
        self.model_memory = ModelMemory(instruments)
        self.steps = instruments.histogram(
            "flowmo_step_duration_seconds",
            "One batch of the decoder: a sampler step of each picture in it.",
            ["model"],
            buckets=_STEP_BUCKETS,
        )
        self.rows = instruments.histogram(
            "flowmo_batch_rows",
            "Rows of a batch, padding left out.",
            ["model", "engine"],
            buckets=_ROW_BUCKETS,
        )
        self.padding = instruments.counter(
            "flowmo_batch_padding_rows",
            "Rows computed only to fill a batch size.",
            ["model", "engine"],
        )
        self.refused = instruments.counter(
            "flowmo_engine_refused",
            "Pictures that an engine did not take, by reason.",
            ["model", "engine", "reason"],
        )
        self.cancelled = instruments.counter(
            "flowmo_engine_cancelled",
            "Pictures that nobody waited for any more.",
            ["model", "engine"],
        )
        self.failed = instruments.counter(
            "flowmo_engine_failed", "Pictures whose batch failed.", ["model", "engine"]
        )
        self.saved = instruments.counter(
            "flowmo_steps_saved",
            "Sampler steps not made: of cancelled decodes and generations, or by degrading.",
            ["model", "reason"],
        )
        self.queue_depth = instruments.gauge(
            "flowmo_queue_depth", "Pictures inside the engines.", ["model"]
        )
        self.backlog = instruments.gauge(
            "flowmo_backlog_seconds",
            "Time until the work that waits would be done, of encoders and decoders.",
            ["model"],
        )
        self.busy = instruments.gauge(
            "flowmo_device_busy_seconds", "Age of the running batch.", ["model"]
        )
        self.slots = instruments.gauge(
            "flowmo_batch_slots", "Rows of the largest batch that is used.", ["model", "engine"]
        )
        self.fallback = instruments.gauge(
            "flowmo_runner_fallback",
            "1 where PyTorch computes because what was asked for is not to be had.",
            ["model"],
        )

    def observer(self, model: str, *, generates: bool = False) -> "ModelObserver":
        """The observer for the engines of one model, of which one generates tokens or none does."""
        return ModelObserver(self, model, generates=generates)

    def sample(self, served: "Served") -> None:
        """Set the gauges of a model whose engines are in this process."""
        name, engines = served.name, served.engines
        self.gpu_memory.sample()
        self.model_memory.sample(name, engines)
        self.queue_depth.set(name, to=engines.waiting)
        self.backlog.set(name, to=engines.backlog_seconds)
        self.busy.set(name, to=engines.busy_seconds)
        for engine, slots in engines.slots.items():
            self.slots.set(name, engine, to=slots)
        self.fallback.set(name, to=engines.info.is_fallback)


class ModelObserver:
    """Counts what happens in the engines of one model: an :class:`EngineObserver`.

    Args:
        metrics: The series of all engines.
        model: The value of the label ``model``.
        generates: Whether the model has a generator.
    """

    def __init__(self, metrics: EngineMetrics, model: str, *, generates: bool = False) -> None:
        self._metrics, self._model = metrics, model
        engines = [engine for engine in ENGINES if generates or engine != "generator"]
        for engine in engines:  # so that every series is there from the first scrape
            for counter in (metrics.padding, metrics.cancelled, metrics.failed):
                counter.inc(model, engine, by=0)
            for reason in REFUSAL_REASONS:
                metrics.refused.inc(model, engine, reason, by=0)
            metrics.rows.make(model, engine)
        for cause in ("cancelled", "degraded"):
            metrics.saved.inc(model, cause, by=0)
        metrics.steps.make(model)

    def batch(self, engine: EngineKind, *, rows: int, bucket: int, seconds: float) -> None:
        """See :class:`EngineObserver`."""
        self._metrics.rows.observe(self._model, engine, value=rows)
        self._metrics.padding.inc(self._model, engine, by=bucket - rows)
        if engine == "decoder":
            self._metrics.steps.observe(self._model, value=seconds)

    def refused(self, engine: EngineKind, reason: RefusalReason) -> None:
        """See :class:`EngineObserver`."""
        self._metrics.refused.inc(self._model, engine, reason)

    def cancelled(self, engine: EngineKind, steps_saved: int) -> None:
        """See :class:`EngineObserver`."""
        self._metrics.cancelled.inc(self._model, engine)
        if engine != "encoder":
            self._metrics.saved.inc(self._model, "cancelled", by=steps_saved)

    def failed(self, engine: EngineKind, works: int, error: Exception) -> None:
        """See :class:`EngineObserver`."""
        self._metrics.failed.inc(self._model, engine, by=works)
        logger.error("%s: the %s failed on %d pictures", self._model, engine, works, exc_info=error)

    def degraded(self, steps_saved: int) -> None:
        """See :class:`EngineObserver`."""
        self._metrics.saved.inc(self._model, "degraded", by=steps_saved)


class Metrics:
    """The series of one gateway, and of the engines that it has in its process.

    Args:
        instruments: Make the series.
        engines_elsewhere: Whether the engines are in other processes, and have series of their
            own.
    """

    def __init__(self, instruments: Instruments, *, engines_elsewhere: bool = False) -> None:
        self.instruments, self._engines_elsewhere = instruments, engines_elsewhere
        self.engines = EngineMetrics(self.instruments)
        self._requests = self.instruments.histogram(
            "flowmo_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            ["method", "route", "status"],
            buckets=REQUEST_BUCKETS,
        )
        self.errors = self.instruments.counter(
            "flowmo_errors", "Requests answered with a problem, by its code.", ["code"]
        )
        self._uploads = self.instruments.histogram(
            "flowmo_upload_duration_seconds",
            "From a request's headers to its body's last byte.",
            ["route"],
            buckets=_STAGE_BUCKETS,
        )
        self._stages = self.instruments.histogram(
            "flowmo_stage_duration_seconds",
            "Parts of a request: decode_image, queue, encode, generate, sample, encode_image.",
            ["model", "stage"],
            buckets=_STAGE_BUCKETS,
        )
        self._in_flight = self.instruments.gauge(
            "flowmo_requests_in_flight", "HTTP requests being answered."
        )
        self._admitted = self.instruments.gauge(
            "flowmo_requests_admitted", "Requests that the admission limiter has let in."
        )
        self._capacity = self.instruments.gauge(
            "flowmo_requests_capacity", "Requests that the admission limiter lets in at once."
        )
        self._admitted_bytes = self.instruments.gauge(
            "flowmo_requests_admitted_bytes", "Bytes of the bodies of admitted requests."
        )
        self._ready = self.instruments.gauge(
            "flowmo_ready", "1 when the model takes requests.", ["model"]
        )
        self._model = self.instruments.gauge(
            "flowmo_model_info",
            "1 for what is served under each name.",
            ["model", "name", "fingerprint", "device", "dtype", "runner"],
        )
        self.keys = self.instruments.counter(
            "flowmo_key_requests",
            "Requests by API key: admitted, limited, or unknown (without a key's name).",
            ["key", "outcome"],
        )
        self.quota_alone = self.instruments.counter(
            "flowmo_quota_counted_alone",
            "Requests and pictures counted by this gateway alone: the quota store did not answer.",
        )
        self._tiles = self.instruments.histogram(
            "flowmo_picture_tiles",
            "Tiles of encoded and decoded pictures.",
            ["model"],
            buckets=_TILE_BUCKETS,
        )
        self._pixels = self.instruments.histogram(
            "flowmo_picture_pixels",
            "Pixels of encoded and decoded pictures.",
            ["model"],
            buckets=_PIXEL_BUCKETS,
        )
        self._cache = self.instruments.counter(
            "flowmo_cache_requests",
            "Pictures and generated tokens looked up in the cache: hit, shared (was being made) or "
            "miss.",
            ["model", "outcome"],
        )
        self._cache_bytes = self.instruments.gauge("flowmo_cache_bytes", "Bytes of cache entries.")
        self._build = self.instruments.gauge(
            "flowmo_build_info", "1 for what runs here.", ["version", "python"]
        )
        self._requests_inside = self._cached_bytes = 0
        self._shown: dict[str, tuple[str, ...]] = {}

    def render(self, accept: str = "") -> Exposition:
        """All series; see :meth:`Instruments.render`."""
        return self.instruments.render(accept)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request as being answered while the block runs."""
        self._requests_inside += 1
        try:
            yield
        finally:
            self._requests_inside -= 1

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            method: The HTTP method, of those that are known.
            route: The template of the route, never the path.
            status: The status of the answer; 499 is a client that left.
            seconds: The time from the request's first byte to the answer's last.
        """
        self._requests.observe(method, route, str(status), value=seconds, trace=exemplar_trace())

    def upload(self, route: str, seconds: float) -> None:
        """Count the body of a request, which took ``seconds`` to arrive."""
        self._uploads.observe(route, value=seconds, trace=exemplar_trace())

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """Count one stage of a request, which took ``seconds``."""
        assert stage in STAGES, stage
        self._stages.observe(model, stage, value=seconds, trace=exemplar_trace())

    def picture(self, model: str, layout: PictureLayout) -> None:
        """Count a picture that goes to an engine."""
        width, height = layout.output
        self._tiles.observe(model, value=layout.tiles)
        self._pixels.observe(model, value=width * height)

    def cached(self, model: str, outcome: CacheOutcome, size: int) -> None:
        """Count a look-up in the cache, whose entries have ``size`` bytes now."""
        self._cache.inc(model, outcome)
        self._cached_bytes = size

    def sample(self, models: "Models", limiter: AdmissionLimiter) -> None:
        """Set all gauges: before each scrape, or now and then.

        Ray forgets those that have not been set since it last reported them.

        Args:
            models: The models that are served.
            limiter: The limiter of this gateway.
        """
        self._build.set(__version__, platform.python_version(), to=1)
        self._cache_bytes.set(to=self._cached_bytes)
        self._in_flight.set(to=self._requests_inside)
        self._admitted.set(to=limiter.admitted)
        self._capacity.set(to=limiter.capacity)
        self._admitted_bytes.set(to=limiter.admitted_bytes)
        for served in models:
            name, engines = served.name, served.engines
            for stage in STAGES:
                self._stages.make(name, stage)
            self._tiles.make(name)
            self._pixels.make(name)
            self._ready.set(name, to=engines.ready)
            if not self._engines_elsewhere:
                self.engines.sample(served)
            info = engines.info
            shown = (name, info.name, info.fingerprint, info.device, info.dtype, info.runner)
            before = self._shown.setdefault(name, shown)
            if before != shown:
                self._model.forget(*before)
                self._shown[name] = shown
            self._model.set(*shown, to=1)
