"""What the routes of one application share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

from starlette.requests import Request

from flowmo.service.engine.calls import Priority
from flowmo.service.http.admission import AdmissionLimiter
from flowmo.service.http.cache import SharedCache
from flowmo.service.http.deadlines import call_of
from flowmo.service.http.image_readers import ImageReaders, usable_processors
from flowmo.service.http.image_threads import ImageThreads
from flowmo.service.http.item_feed import ItemFeed, item_capacity
from flowmo.service.http.keys import Usage
from flowmo.service.http.middleware import declared_bytes, watch_body
from flowmo.service.http.picture import Picture
from flowmo.service.http.request_scope import RequestScope
from flowmo.service.models import Models
from flowmo.service.settings import Settings
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
        image_readers: The processes that read uploaded image files.
        image_threads: The threads that write image files.
        feed: Lets the items of batch requests to the engines.
    """

    def __init__(
        self, models: Models, limiter: AdmissionLimiter, settings: Settings, metrics: Metrics
    ) -> None:
        self.models = models
        self.limiter = limiter
        self.settings = settings
        self.metrics = metrics
        self.pictures = SharedCache[Picture](settings.cache_bytes)
        at_once = settings.image_threads or usable_processors()
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
        settings = self.settings
        call = call_of(
            request.headers,
            default=settings.default_deadline_seconds,
            most=settings.max_deadline_seconds,
            margin=settings.deadline_margin_seconds,
            priority=priority,
        )
        state = request.scope.get("state", {})
        usage: Usage | None = state.get("usage")
        if usage is not None:
            call = replace(call, tenant=state["key"], weight=usage.entry.weight)
        backlog = max(served.engines.backlog_seconds for served in self.models)
        resources = ExitStack()
        admission = resources.enter_context(
            self.limiter.admit(
                declared_bytes(request.headers) or 0,
                backlog_seconds=backlog,
                body_seconds=settings.body_seconds,
            )
        )
        watch_body(request.scope, admission)
        return RequestScope(request, call, resources, usage)

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

    def render_metrics(self) -> bytes:
        """All series as they are now, in Prometheus' text format."""
        self.metrics.sample(self.models, self.limiter)
        return self.metrics.render()

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Set the gauges every few seconds while the block runs: nobody scrapes this process."""

        async def sample() -> None:
            while True:
                self.metrics.sample(self.models, self.limiter)
                await asyncio.sleep(SAMPLE_SECONDS)

        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()
