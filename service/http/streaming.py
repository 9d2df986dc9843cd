"""A decode or generation as Server-Sent Events: its progress, previews, and the picture.

    event: progress   {"step", "steps"}                      after each step
    event: preview    the same, "media_type" and "image"     at the steps that were asked for
    event: image      "media_type", "image", "fingerprint"   the end; "headers" beside them
    event: error      a problem, as in other answers          the end, too

``image`` is base64. What goes wrong before the first step is an ordinary error answer.
"""

import asyncio
import base64
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import ExitStack
from typing import Generic, Protocol, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from flowmo.imaging.reading import Pixels
from flowmo.imaging.writing import OUTPUT_MEDIA_TYPES
from flowmo.model.layout import PictureLayout
from flowmo.service.engine.calls import Decoded, DecodeProgress, Region, Watch
from flowmo.service.http.job import Job

MEDIA_TYPE = "text/event-stream"
# Of one event, for the OpenAPI document.
EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"enum": ["progress", "preview", "image", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}

Explain = Callable[[Exception], str]


class _Step(Protocol):
    @property
    def step(self) -> int: ...

    @property
    def steps(self) -> int: ...


P = TypeVar("P", bound=_Step)
R = TypeVar("R")


class EventStream(StreamingResponse):
    """A stream of events; it holds what they need until the last is sent or the client has left.

    Args:
        events: The encoded events.
        resources: What is released at the end.
        headers: The headers of the answer.
        media_type: What the events are.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        resources: ExitStack,
        headers: dict[str, str],
        media_type: str = MEDIA_TYPE,
    ) -> None:
        # No-store, and no buffering by nginx: an event is of use now.
        headers = {**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type=media_type)
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        What the events need is released here and not in the iterator: one that never started is not
        finished either.
        """
        with self._resources:
            await super().__call__(scope, receive, send)


class StepStream(ABC, Generic[P, R]):
    """Work in steps under way, seen step by step; a picture at its end.

    Args:
        job: The request's job, with its model.
        media_type: The media type of the image and the previews.
        quality: 1 to 100, for JPEG and WebP.
        layout: The picture whose size and shape the images have.
        region: The part of it that is wanted.
    """

    def __init__(
        self,
        job: Job,
        *,
        media_type: str,
        quality: int,
        layout: PictureLayout,
        region: Region | None = None,
    ) -> None:
        self._job = job
        self._layout, self._region = layout, region
        self._media_type, self._quality = media_type, quality
        self._updates: asyncio.Queue[P | None] = asyncio.Queue()
        self._task: asyncio.Task[R] | None = None
        self._first: P | None = None

    @abstractmethod
    async def _preview(self, update: P) -> Pixels | None:
        """The picture so far, if it was asked for after this step."""

    @abstractmethod
    async def _final(self, result: R) -> Pixels:
        """The picture of what was made."""

    @abstractmethod
    def _more(self, result: R, /) -> Mapping[str, str]:
        """What the last event says besides the picture."""

    async def begin(
        self,
        work: Callable[[Callable[[P], None]], Coroutine[None, None, R]],
        resources: ExitStack,
    ) -> None:
        """Begin the work, and wait for its first step.

        Args:
            work: Begins it; its progress is reported to the function that it is given.
            resources: What is released when the request ends; the work is cancelled with it.

        Raises:
            Exception: Whatever the work failed with before its first step.
        """
        self._task = task = asyncio.create_task(work(self._updates.put_nowait))
        resources.callback(task.cancel)
        task.add_done_callback(lambda _: self._updates.put_nowait(None))
        self._first = await self._updates.get()
        if self._first is None:
            task.result()  # raises, unless there was no step to make

    async def events(
        self, describe: Callable[[R], dict[str, str]], explain: Explain
    ) -> AsyncIterator[bytes]:
        """Give all events, as they happen; started once.

        Args:
            describe: Makes the headers that the same answer would have without streaming.
            explain: Makes the problem document of an error.
        """
        assert self._task is not None
        update = self._first
        try:
            while update is not None:
                at = {"step": update.step, "steps": update.steps}
                yield _event("progress", at)
                if (preview := await self._preview(update)) is not None:
                    yield _event("preview", {**at, **await self._picture(preview)})
                update = await self._updates.get()
            result = self._task.result()
            picture = await self._picture(await self._final(result))
            made = {**picture, **self._more(result), "fingerprint": self._job.fingerprint}
            yield _event("image", {**made, "headers": describe(result)})
        except Exception as error:  # noqa: BLE001
            # The answer has begun: an event is all that can still report it.
            yield _encoded("error", explain(error))

    async def _picture(self, pixels: Pixels) -> dict[str, str]:
        format = OUTPUT_MEDIA_TYPES[self._media_type]
        data = await self._job.render(pixels, format, self._quality, self._layout, self._region)
        return {"media_type": self._media_type, "image": base64.b64encode(data).decode()}


class DecodeStream(StepStream[DecodeProgress, Decoded]):
    """A decode under way, seen step by step."""

    async def start(
        self,
        work: Callable[[Watch], Coroutine[None, None, Decoded]],
        previews: Collection[int],
        resources: ExitStack,
    ) -> None:
        """Begin the decode, and wait for its first step.

        Args:
            work: Begins the decode, whose progress is reported to the watch it is given.
            previews: The steps, 1 for the first, after which a preview is wanted.
            resources: What is released when the request ends; the decode is cancelled with it.

        Raises:
            Exception: Whatever the decode failed with before its first step.
        """
        await self.begin(
            lambda report: work(Watch(on_progress=report, previews=previews)), resources
        )

    async def _preview(self, update: DecodeProgress) -> Pixels | None:
        return update.preview

    async def _final(self, result: Decoded) -> Pixels:
        return result.pixels

    def _more(self, _: Decoded, /) -> Mapping[str, str]:
        return {}


def _event(name: str, data: Mapping[str, object]) -> bytes:
    return _encoded(name, json.dumps(data, separators=(",", ":")))


def _encoded(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()
