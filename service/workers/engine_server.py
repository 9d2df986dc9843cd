"""What the engine process answers to gateways, over a local socket.

Each call has a connection of its own while it lasts: a gateway that does not wait any more ends
it, and the work inside ends with it, as with HTTP's disconnects; so does a gateway that dies.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowmo.service.engine.calls import Call, Watch
from flowmo.service.engine.generate_calls import GenerateWatch
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.shared_calls import SharedCall
from flowmo.service.errors import NoPriorError
from flowmo.service.models import Models, Served
from flowmo.service.workers import generate_messages, messages
from flowmo.service.workers.frames import Frame, Streams

logger = logging.getLogger(__name__)

# Gateways know the engines' state as it was so long ago, at most.
STATUS_SECONDS = 0.1


class EngineServer:
    """Answers the calls of gateways.

    Args:
        models: The models that are computed here.
        start_seconds: Gives the seconds that the start of this process has taken, to readiness.
    """

    def __init__(self, models: Models, start_seconds: Callable[[], float]) -> None:
        self._models, self._start_seconds = models, start_seconds

    async def serve(self, streams: Streams) -> None:
        """Answer one connection's calls, one after the other, until it ends."""
        reading = asyncio.create_task(streams.read())
        try:
            while (frame := await reading) is not None:
                reading = asyncio.create_task(streams.read())
                if frame.head["op"] == "raise":
                    continue  # of work that was done just before
                shared = (
                    SharedCall(messages.call_from(frame.head)) if "call" in frame.head else None
                )
                work = asyncio.create_task(self._answer(streams, frame, shared))
                try:
                    while True:
                        await asyncio.wait({work, reading}, return_when=asyncio.FIRST_COMPLETED)
                        if work.done():
                            work.result()
                            break
                        raised = reading.result()
                        if raised is None:
                            return  # nobody waits for it any more
                        assert shared is not None
                        shared.join(messages.call_from(raised.head))
                        reading = asyncio.create_task(streams.read())
                finally:
                    work.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await work
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading

    async def _answer(self, streams: Streams, frame: Frame, shared: SharedCall | None) -> None:
        if shared is None:
            await self._tell_status(streams)
        else:
            try:
                await self._compute(streams, frame, shared)
            except messages.EXPECTED as error:
                streams.send(messages.error_to_dict(error))
            except Exception as error:
                if isinstance(error, ConnectionError):
                    raise
                logger.exception("a call failed")
                streams.send(messages.error_to_dict(error))
        await streams.drain()

    async def _compute(self, streams: Streams, frame: Frame, shared: SharedCall) -> None:
        with self._used(frame.head["model"]) as served:
            if frame.head["op"] == "encode":
                encoder = served.engines.encoder
                encoded = await encoder.encode(messages.pixels_of(frame), shared.call)
                messages.send_encoded(streams, encoded)
                return
            if frame.head["op"] == "generate":
                await _generate(streams, frame, served, shared.call)
                return
            watch = None
            if (previews := frame.head["previews"]) is not None:
                watch = Watch(
                    on_progress=lambda progress: messages.send_progress(streams, progress),
                    previews=frozenset(previews),
                )
            tokens, options = messages.tokens_of(frame), messages.options_of(frame)
            decoded = await served.engines.decoder.decode(tokens, options, shared.call, watch)
            messages.send_decoded(streams, decoded)

    @contextmanager
    def _used(self, number: int) -> Iterator[Served]:
        served = tuple(self._models)[number]
        with self._models.use(served):
            yield served

    async def _tell_status(self, streams: Streams) -> None:
        """Say again and again how the models are, until the gateway ends."""
        known: list[ModelInfo | None] = [None for _ in self._models]
        while True:
            now = [_status(served) for served in self._models]
            models = [one.to_dict(info) for one, info in zip(now, known, strict=True)]
            streams.send({"kind": "status", "models": models, "start": self._start_seconds()})
            known = [one.info for one in now]
            await streams.drain()
            await asyncio.sleep(STATUS_SECONDS)


async def _generate(streams: Streams, frame: Frame, served: Served, call: Call) -> None:
    generator = served.engines.generator
    if generator is None:
        raise NoPriorError(f"the model {served.name!r} is served without a prior")
    watch = None
    if (previews := frame.head["previews"]) is not None:
        watch = GenerateWatch(
            on_progress=lambda progress: generate_messages.send_progress(streams, progress),
            previews=frozenset(previews),
        )
    wish = generate_messages.wish_of(frame)
    generate_messages.send_generated(streams, await generator.generate(wish, call, watch))


def _status(served: Served) -> messages.ModelStatus:
    engines = served.engines
    return messages.ModelStatus(
        name=served.name,
        info=engines.info,
        ready=engines.ready,
        complaint=engines.complaint,
        waiting=engines.waiting,
        backlog_seconds=engines.backlog_seconds,
        busy_seconds=engines.busy_seconds,
        slots=dict(engines.slots),
    )
