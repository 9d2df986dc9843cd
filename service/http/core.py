"""One application's parts, and the two pieces of work its routes are made of."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

from starlette.requests import Request

from flowmo.imaging.fit import Fit, FittedImage, fit_image
from flowmo.imaging.reading import DecodedImage, Pixels, read_image
from flowmo.imaging.writing import ImageFormat, encode_image
from flowmo.model.config import SamplerConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import UPDATE_SECONDS, Call, Decoded, DecodeOptions, Priority
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.errors import ClientLeftError, DeadlineExceededError, OtherWeightsError
from flowmo.service.http.admission import Places
from flowmo.service.http.cache import Found, Kept, SharedCache
from flowmo.service.http.deadlines import call_of
from flowmo.service.http.middleware import declared_bytes
from flowmo.service.models import Models, Served
from flowmo.service.settings import Settings
from flowmo.service.telemetry.metrics import Metrics
from flowmo.service.telemetry.tracing import record_stages

T = TypeVar("T")

SAMPLE_SECONDS = 5.0


@dataclass(slots=True)
class StageClock:
    """Seconds of each stage of one request, kept for its ``Server-Timing`` header."""

    metrics: Metrics
    model: str
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stages: Mapping[str, float], **attributes: str | int) -> None:
        """Count stages that have just ended, one after the other.

        One that comes twice in a request (the queue, in reconstruct) adds up in the header.

        Args:
            stages: seconds of each, in their order.
            attributes: of their spans.
        """
        record_stages(stages, **{"flowmo.model": self.model, **attributes})
        for stage, seconds in stages.items():
            self.metrics.stage(self.model, stage, seconds)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add_decode(self, decoded: Decoded) -> None:
        """Count the stages of a decode."""
        stages = {"queue": decoded.timings.queue, "sample": decoded.timings.run}
        self.add(stages, **{"flowmo.steps": decoded.sampler.steps})

    def header(self) -> str:
        """The value of ``Server-Timing``, in milliseconds."""
        return ", ".join(f"{name};dur={s * 1e3:.2f}" for name, s in self.seconds.items())


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as it was sent, and as the model takes it."""

    image: DecodedImage
    fitted: FittedImage


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as a file.

    Attributes:
        data: the file.
        sampler: what it was decoded with.
    """

    data: bytes
    sampler: SamplerConfig


@dataclass(frozen=True, slots=True)
class Visit:
    """One request while it is inside, as a context manager.

    Attributes:
        request: as it came.
        call: its deadline and priority.
        stack: what is given back when it leaves; an answer that is still being made takes it over.
    """

    request: Request
    call: Call
    stack: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


class Service:
    """What the routes of one application share.

    Args:
        models: what is served.
        places: for requests.
        settings: limits.
        metrics: where to count.
    """

    def __init__(
        self, models: Models, places: Places, settings: Settings, metrics: Metrics
    ) -> None:
        self.models = models
        self.places = places
        self.settings = settings
        self.metrics = metrics
        self.pictures = SharedCache[Picture](settings.cache_bytes)
        # Decoding and encoding images are what may take much memory at once.
        self._image_slots = asyncio.Semaphore(settings.image_threads)

    def admit(self, request: Request, *, priority: Priority = "interactive") -> Visit:
        """A place for a request, from before its body is read until it is answered.

        Args:
            request: as it came.
            priority: if its headers do not say.

        Raises:
            InvalidFieldsError: headers that say how to treat it cannot be used.
            QueueFullError: there is no place.
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
        stack = ExitStack()
        stack.enter_context(self.places.take(size, backlog_seconds=backlog))
        return Visit(request, call, stack)

    def render_metrics(self) -> bytes:
        """All series in Prometheus' text format."""
        self.metrics.sample(self.models, self.places)
        return self.metrics.render()

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Set the gauges every few seconds while the block runs: nobody scrapes this process."""

        async def sample() -> None:
            while True:
                self.metrics.sample(self.models, self.places)
                await asyncio.sleep(SAMPLE_SECONDS)

        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()

    def begin(self, visit: Visit, served: Served) -> "Job":
        """Work with a model, which stays until the visit ends."""
        visit.stack.enter_context(self.models.use(served))
        return Job(self, visit, served)

    async def in_image_thread(self, work: Callable[[], T], stage: str, clock: StageClock) -> T:
        """The result of work on pixels or files, of which only so much is done at once."""
        await self._image_slots.acquire()
        begin = time.perf_counter()
        task = asyncio.create_task(asyncio.to_thread(work))
        # A thread cannot be cancelled: whoever leaves it behind does not free its slot.
        task.add_done_callback(self._image_done)
        result = await asyncio.shield(task)
        clock.add({stage: time.perf_counter() - begin})
        return result

    def _image_done(self, task: "asyncio.Task[T]") -> None:
        self._image_slots.release()
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits for it any more


# Of a kept picture, beside its data and its tokens: key, options, entry.
_ENTRY_BYTES = 1024


class Job:
    """What one request has done with one model.

    Args:
        service: its parts.
        visit: the request.
        served: the model.

    Attributes:
        clock: what its stages took.
        fingerprint: of the weights it is done with.
    """

    def __init__(self, service: Service, visit: Visit, served: Served) -> None:
        self._service, self._visit = service, visit
        self.name, self.engines = served.name, served.engines
        self.clock = StageClock(service.metrics, served.name)
        self.fingerprint = served.engines.info.fingerprint

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        return self.engines.info

    async def read(self, data: bytes, fit: Fit) -> Upload:
        """Decode an upload and fit it to the model's square.

        Raises:
            ImageError: it is no image that can be used.
        """
        size, limit = self.info.image_size, self._service.settings.max_pixels

        def work() -> Upload:
            image = read_image(data, max_pixels=limit, side=size)
            return Upload(image, fit_image(image, size, fit))

        return await self._service.in_image_thread(work, "decode_image", self.clock)

    async def encode(self, pixels: Pixels) -> Tokens:
        """Tokens of a picture; :attr:`fingerprint` is from now on theirs."""
        encoded = await self.engines.encode(pixels, self._visit.call)
        self.clock.add({"queue": encoded.timings.queue, "encode": encoded.timings.run})
        self.fingerprint = encoded.weights
        return encoded.tokens

    async def reconstruct(
        self, pixels: Pixels, options: DecodeOptions, format: ImageFormat, quality: int
    ) -> Found[Picture]:
        """The picture of a picture's tokens, both by one model.

        In a rolling update the encoder that was asked may have weights that no decoder has yet, or
        has any more; then another one is asked.

        Raises:
            OtherWeightsError: encoders and decoders stay of different weights.
            DeadlineExceededError: another request was making it, and did not in time.
        """
        until = time.monotonic() + UPDATE_SECONDS
        while True:
            tokens = await self.encode(pixels)
            try:
                return await self.decode(tokens, replace(options, patience=0.5), format, quality)
            except OtherWeightsError:
                if time.monotonic() > until:
                    raise

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, format: ImageFormat, quality: int
    ) -> Found[Picture]:
        """The picture of a token set; it may be there already, or be made for another request.

        Raises:
            OtherWeightsError: no decoder has the weights that the tokens are for.
            DeadlineExceededError: another request was making it, and did not in time.
        """

        async def make() -> Kept[Picture]:
            decoded = await self.pixels(tokens, options)
            data = await self.render(decoded.pixels, format, quality)
            # One with fewer steps is not what the next request asks for.
            whole = decoded.sampler == options.sampler
            size = len(data) + tokens.ids.nbytes + _ENTRY_BYTES
            return Kept(value=Picture(data, decoded.sampler), size=size if whole else None)

        # Who waits how long makes no other picture.
        asked = replace(options, patience=UPDATE_SECONDS)
        key = (self.fingerprint, tokens.ids.tobytes(), asked, format, quality)
        remaining = self._visit.call.remaining
        until = time.monotonic() + options.patience
        try:
            async with asyncio.timeout(None if math.isinf(remaining) else remaining):
                found = await self._patiently(key, make, until)
        except TimeoutError:
            raise DeadlineExceededError("the picture was not made by the deadline") from None
        self._service.metrics.cached(self.name, found.outcome, self._service.pictures.size)
        return found

    async def _patiently(
        self,
        key: tuple[object, ...],
        make: Callable[[], Coroutine[None, None, Kept[Picture]]],
        until: float,
    ) -> Found[Picture]:
        while True:
            try:
                return await self._service.pictures.get(key, make)
            except OtherWeightsError:  # another request that was making it may give up sooner
                if time.monotonic() >= until:
                    raise

    async def pixels(self, tokens: Tokens, options: DecodeOptions) -> Decoded:
        """The picture of a token set, as pixels; none is kept."""
        wish = replace(options, weights=self.fingerprint)
        decoded = await self.engines.decode(tokens, wish, self._visit.call)
        self.clock.add_decode(decoded)
        return decoded

    async def render(self, pixels: Pixels, format: ImageFormat, quality: int) -> bytes:
        """A picture as a file."""

        def work() -> bytes:
            return encode_image(pixels, format, quality=quality)

        return await self._service.in_image_thread(work, "encode_image", self.clock)


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client leaves.

    Args:
        request: its body has been read.
        work: what to wait for.

    Raises:
        ClientLeftError: the client closed the connection.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError("the client closed the connection before the answer")
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
