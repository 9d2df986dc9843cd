"""One application's parts, and the two pieces of work its routes are made of."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request

from model.tokens import Tokens
from service.deadlines import call_of
from service.engine.calls import Call, Decoded, DecodeOptions
from service.engine.local import LocalEngines
from service.errors import ClientLeftError
from service.fit import Fit, FittedImage, fit_image
from service.images import DecodedImage, Pixels, read_image
from service.metrics import Metrics
from service.middleware import declared_bytes
from service.places import Places
from service.render import ImageFormat, encode_image
from service.settings import Settings

T = TypeVar("T")


@dataclass(slots=True)
class StageClock:
    """Seconds of each stage of one request, kept for its ``Server-Timing`` header."""

    metrics: Metrics
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        """Count a stage; one that comes twice (the queue, in reconstruct) adds up in the header."""
        self.metrics.stage(stage, seconds)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def add_decode(self, decoded: Decoded) -> None:
        """Count the stages of a decode."""
        self.add("queue", decoded.timings.queue)
        self.add("sample", decoded.timings.run)

    def header(self) -> str:
        """The value of ``Server-Timing``, in milliseconds."""
        return ", ".join(f"{name};dur={s * 1e3:.2f}" for name, s in self.seconds.items())


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as it was sent, and as the model takes it."""

    image: DecodedImage
    fitted: FittedImage


@dataclass(frozen=True, slots=True)
class Visit:
    """One request while it is inside.

    Attributes:
        request: as it came.
        call: its deadline and priority.
        clock: what its stages took.
    """

    request: Request
    call: Call
    clock: StageClock


class Service:
    """What the routes of one application share.

    Args:
        engines: run the model.
        places: for requests.
        settings: limits.
        metrics: where to count.
    """

    def __init__(
        self, engines: LocalEngines, places: Places, settings: Settings, metrics: Metrics
    ) -> None:
        self.engines = engines
        self.places = places
        self.settings = settings
        self.metrics = metrics
        # Decoding and encoding images are what may take much memory at once.
        self._image_slots = asyncio.Semaphore(settings.image_threads)

    @contextmanager
    def admit(self, request: Request) -> Iterator[Visit]:
        """A place for a request, from before its body is read until it is answered.

        Raises:
            InvalidFieldsError: headers that say how to treat it cannot be used.
            QueueFullError: there is no place.
        """
        settings = self.settings
        call = call_of(
            request.headers,
            default=settings.default_deadline_seconds,
            most=settings.max_deadline_seconds,
        )
        declared = declared_bytes(request.headers)
        size = settings.max_body_bytes if declared is None else declared
        with self.places.take(size, backlog_seconds=self.engines.decoder.backlog_seconds):
            yield Visit(request, call, StageClock(self.metrics))

    async def read(self, data: bytes, fit: Fit, clock: StageClock) -> Upload:
        """Decode an upload and fit it to the model's square.

        Raises:
            ImageError: it is no image that can be used.
        """
        size, limit = self.engines.info.image_size, self.settings.max_pixels

        def work() -> Upload:
            image = read_image(data, max_pixels=limit, side=size)
            return Upload(image, fit_image(image, size, fit))

        return await self._in_image_thread(work, "decode_image", clock)

    async def encode(self, visit: Visit, pixels: Pixels) -> Tokens:
        """Tokens of a picture, unless the client leaves first."""
        encoded = await until_disconnect(visit.request, self.engines.encode(pixels, visit.call))
        visit.clock.add("queue", encoded.timings.queue)
        visit.clock.add("encode", encoded.timings.run)
        return encoded.tokens

    async def decode(self, visit: Visit, tokens: Tokens, options: DecodeOptions) -> Decoded:
        """The picture of a token set, unless the client leaves first."""
        work = self.engines.decode(tokens, options, visit.call)
        decoded = await until_disconnect(visit.request, work)
        visit.clock.add_decode(decoded)
        return decoded

    async def render(
        self, pixels: Pixels, format: ImageFormat, quality: int, clock: StageClock
    ) -> bytes:
        """A picture as a file."""

        def work() -> bytes:
            return encode_image(pixels, format, quality=quality)

        return await self._in_image_thread(work, "encode_image", clock)

    async def _in_image_thread(self, work: Callable[[], T], stage: str, clock: StageClock) -> T:
        async with self._image_slots:
            begin = time.perf_counter()
            result = await asyncio.to_thread(work)
        clock.add(stage, time.perf_counter() - begin)
        return result


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
