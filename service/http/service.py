"""What the routes of one application share."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

from starlette.requests import Request

from flowmo.service.engine.calls import Priority
from flowmo.service.engine.generate_calls import Generated
from flowmo.service.http.admission import Admission, AdmissionLimiter
from flowmo.service.http.cache import SharedCache
from flowmo.service.http.cancellation import InsideRequests
from flowmo.service.http.deadlines import call_of
from flowmo.service.http.disconnect import CANCELLATION
from flowmo.service.http.image_readers import ImageReaders, default_image_threads
from flowmo.service.http.image_threads import ImageThreads
from flowmo.service.http.item_feed import ItemFeed, item_capacity
from flowmo.service.http.keys import Usage
from flowmo.service.http.middleware import declared_bytes, request_id_of, watch_body
from flowmo.service.http.oip.shared_memory import Regions
from flowmo.service.http.oip.statistics import InferenceStatistics
from flowmo.service.http.picture import Picture
from flowmo.service.http.request_scope import RequestScope, WorkScope
from flowmo.service.models import Models
from flowmo.service.settings import Settings
from flowmo.service.telemetry.instruments import Exposition
from flowmo.service.telemetry.metrics import Metrics

SAMPLE_SECONDS = 5.0


class Service:
    """The parts of one application that its routes share.

    Args:
        models: The models that are served.
        limiter: Admits requests.
        settings: The limits that the operator has set.
        metrics: The series in which everything is counted.

    Attributes:
        pictures: Decoded pictures as files, for requests that repeat.
        generated: Generated tokens, likewise.
        image_readers: The processes that read uploaded image files.
        image_threads: The threads that write image files.
        feed: Lets the items of batch requests to the engines.
        requests: The requests that are inside, for those who cancel them.
        statistics: What has been asked through the Open Inference Protocol.
        regions: The shared memory of its clients.
    """

    def __init__(
        self, models: Models, limiter: AdmissionLimiter, settings: Settings, metrics: Metrics
    ) -> None:
        self.models = models
        self.limiter = limiter
        self.settings = settings
        self.metrics = metrics
        self.pictures = SharedCache[Picture](settings.cache_bytes)
        # Beside pictures they are small: an eighth is hundreds of thousands of them.
        self.generated = SharedCache[Generated](settings.cache_bytes // 8)
        self.requests = InsideRequests()
        self.statistics = InferenceStatistics()
        self.regions = Regions(enabled=settings.shared_memory, max_bytes=settings.max_body_bytes)
        at_once = settings.image_threads or default_image_threads()
        self.image_readers = ImageReaders(at_once, settings.image_seconds)
        self.image_threads = ImageThreads(at_once)
        self.feed = ItemFeed(
            item_capacity(settings.max_queued_requests, settings.max_concurrent_requests)
        )

    def admit(self, request: Request, *, priority: Priority = "interactive") -> RequestScope:
        """Admit a request, before its body is read.

        Args:
            request: The request as the client sent it.
            priority: How urgent the request is if its headers do not say.

        Returns:
            The request's scope; the request counts as inside until it is closed.

        Raises:
            InvalidFieldsError: A header that says how to treat the request cannot be used.
            QueueFullError: As many requests as there may be are inside already.
        """
        state = request.scope["state"]
        scope, admission = self.enter(
            request.headers,
            declared_bytes(request.headers) or 0,
            key=state.get("key"),
            usage=state.get("usage"),
            request_id=request_id_of(request.scope),
            priority=priority,
        )
        watch_body(request.scope, admission)
        state[CANCELLATION] = scope.cancellation
        return RequestScope(
            call=scope.call,
            cancellation=scope.cancellation,
            resources=scope.resources,
            usage=scope.usage,
            request=request,
        )

    def enter(
        self,
        headers: Mapping[str, str],
        declared: int,
        *,
        key: str | None,
        usage: Usage | None,
        request_id: str,
        priority: Priority = "interactive",
    ) -> tuple[WorkScope, Admission]:
        """Admit work, however it came.

        Args:
            headers: What says how to treat it, by names in any case.
            declared: The bytes that it says it has; 0 if it does not say.
            key: The name of the API key that sent it.
            usage: What this key has used; None where no key is needed.
            request_id: Its id.
            priority: How urgent it is if its headers do not say.

        Returns:
            The work's scope, and its admission, which is to be told of the bytes that arrive.

        Raises:
            InvalidFieldsError: A header that says how to treat it cannot be used.
            QueueFullError: As many requests as there may be are inside already.
        """
        settings = self.settings
        call = call_of(
            headers,
            default=settings.default_deadline_seconds,
            most=settings.max_deadline_seconds,
            margin=settings.deadline_margin_seconds,
            priority=priority,
        )
        if usage is not None:
            call = replace(call, tenant=key, weight=usage.entry.weight)
        backlog = max(served.engines.backlog_seconds for served in self.models)
        resources = ExitStack()
        admission = resources.enter_context(
            self.limiter.admit(
                declared, backlog_seconds=backlog, body_seconds=settings.body_seconds
            )
        )
        cancellation = resources.enter_context(self.requests.enter(key, request_id))
        scope = WorkScope(call=call, cancellation=cancellation, resources=resources, usage=usage)
        return scope, admission

    @property
    def cached_bytes(self) -> int:
        """The bytes of all cache entries."""
        return self.pictures.size + self.generated.size

    @property
    def max_edit_values(self) -> int:
        """The values of one square's tokens and their mask, as lists in JSON."""
        return 2 * self._tile_values

    @property
    def max_token_values(self) -> int:
        """The values of the longest token set of any model, as lists of ids in JSON."""
        return self._tile_values * self.settings.max_tiles + 1

    @property
    def _tile_values(self) -> int:
        configs = [served.engines.info.config for served in self.models]
        return max(config.code_length * (config.ids_per_token + 1) for config in configs) + 1

    @property
    def max_tensor_values(self) -> int:
        """The values of the largest tensors of one inference request in JSON.

        As many rows as there may be of the larger of tokens and pixels, each in lists of its own.
        """
        sizes = [served.engines.info.image_size for served in self.models]
        pixels = max(size * (4 * size + 1) for size in sizes)
        return self.settings.max_items * (max(self._tile_values, pixels) + 1)

    def render_metrics(self, accept: str = "") -> Exposition:
        """All series as they are now, in the format that a scraper's ``Accept`` asks for."""
        self.metrics.sample(self.models, self.limiter)
        return self.metrics.render(accept)

    @asynccontextmanager
    async def sampling(self, period: float = SAMPLE_SECONDS) -> AsyncIterator[None]:
        """Set the gauges every few seconds while the block runs.

        They are read elsewhere: by Ray's agent, or by another gateway that is scraped.

        Args:
            period: The seconds between two times.
        """

        async def sample() -> None:
            while True:
                self.metrics.sample(self.models, self.limiter)
                await asyncio.sleep(period)

        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()
