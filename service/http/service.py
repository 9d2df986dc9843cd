"""What the routes of one application share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from starlette.requests import Request

from flowmo.service.engine.calls import Priority
from flowmo.service.http.admission import AdmissionLimiter
from flowmo.service.http.cache import SharedCache
from flowmo.service.http.deadlines import call_of
from flowmo.service.http.image_threads import ImageThreads
from flowmo.service.http.item_feed import ItemFeed, item_capacity
from flowmo.service.http.middleware import declared_bytes
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
        image_threads: The threads that read and write image files.
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
        self.image_threads = ImageThreads(settings.image_threads)
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
        declared = declared_bytes(request.headers)
        size = settings.max_body_bytes if declared is None else declared
        backlog = max(served.engines.backlog_seconds for served in self.models)
        resources = ExitStack()
        resources.enter_context(self.limiter.admit(size, backlog_seconds=backlog))
        return RequestScope(request, call, resources)

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
