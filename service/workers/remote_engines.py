"""The engines of one model in the engine process, as a gateway sees them."""

from collections.abc import Callable, Mapping

from flowmo.imaging.reading import Pixels
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    Call,
    Decoded,
    DecodeOptions,
    Encoded,
    Watch,
)
from flowmo.service.engine.calls_inside import CallsInside
from flowmo.service.engine.engines import Generator
from flowmo.service.engine.generate_calls import Generated, GenerateOptions, GenerateWatch
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.observer import EngineKind
from flowmo.service.engine.shared_calls import following, until_deadline
from flowmo.service.errors import DeadlineExceededError
from flowmo.service.workers import generate_messages, messages
from flowmo.service.workers.engine_link import EngineLink
from flowmo.service.workers.frames import Frame, Streams
from flowmo.service.workers.messages import ModelStatus


class _Calls(CallsInside):
    """The work of one model that this gateway has given to the engine process."""

    def __init__(self, link: EngineLink) -> None:
        super().__init__()
        self.link = link

    async def done(
        self,
        call: Call,
        send: Callable[[Streams], None],
        late: str,
        report: Callable[[Frame], None] | None = None,
    ) -> Frame:
        """Give the engine work, and wait for the answer by the deadline.

        Args:
            call: The deadline and the priority.
            send: Sends the work.
            late: What is told when the deadline passes.
            report: Is given what tells of progress.

        Raises:
            DeadlineExceededError: The answer was not there by the deadline.
            Exception: What the engine refused the work with.
        """
        self.inside += 1
        try:
            async with until_deadline(call), self.link.connection() as streams:
                send(streams)
                frame = await self._result(streams, call, report)
        except TimeoutError:
            raise DeadlineExceededError(late) from None
        finally:
            self.inside -= 1
        if frame.head["kind"] == "error":
            raise messages.error_of(frame)
        return frame

    async def _result(
        self, streams: Streams, call: Call, report: Callable[[Frame], None] | None
    ) -> Frame:
        """The answer to what has been sent; as urgent as those who come to wait for it."""

        def follow(raised: Call) -> None:
            streams.send({"op": "raise", "call": messages.call_to_dict(raised)})

        await streams.drain()
        with following(call, follow):
            while (frame := await streams.read()) is not None:
                kind = frame.head["kind"]
                if kind == "progress":
                    assert report is not None
                    report(frame)
                else:
                    return frame
        raise ConnectionResetError("the engine process ended")


class RemoteEncoder:
    """The encoder in the engine process.

    Args:
        calls: The work that this gateway has given to it.
        model: The model's number there.
    """

    def __init__(self, calls: _Calls, model: int) -> None:
        self._calls, self._model = calls, model

    async def encode(self, pixels: Pixels, call: Call) -> Encoded:
        """See :meth:`EncoderEngine.encode`."""
        frame = await self._calls.done(
            call,
            lambda streams: messages.send_pixels(streams, self._model, pixels, call),
            "the picture was not encoded by the deadline",
        )
        return messages.encoded_of(frame)


class RemoteDecoder:
    """The decoder in the engine process.

    Args:
        calls: The work that this gateway has given to it.
        model: The model's number there.
    """

    def __init__(self, calls: _Calls, model: int) -> None:
        self._calls, self._model = calls, model

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch | None = None
    ) -> Decoded:
        """See :meth:`DecoderEngine.decode`."""
        previews = None if watch is None else sorted(watch.previews)

        def send(streams: Streams) -> None:
            messages.send_tokens(streams, self._model, tokens, options, call, previews)

        def report(frame: Frame) -> None:
            assert watch is not None
            watch.on_progress(messages.progress_of(frame))

        frame = await self._calls.done(
            call, send, "the decode was not done by the deadline", report
        )
        return messages.decoded_of(frame)


class RemoteGenerator:
    """The generator in the engine process.

    Args:
        calls: The work that this gateway has given to it.
        model: The model's number there.
    """

    def __init__(self, calls: _Calls, model: int) -> None:
        self._calls, self._model = calls, model

    async def generate(
        self, options: GenerateOptions, call: Call, watch: GenerateWatch | None = None
    ) -> Generated:
        """See :meth:`GeneratorEngine.generate`."""
        previews = None if watch is None else sorted(watch.previews)

        def send(streams: Streams) -> None:
            generate_messages.send_wish(streams, self._model, options, call, previews)

        def report(frame: Frame) -> None:
            assert watch is not None
            watch.on_progress(generate_messages.progress_of(frame))

        frame = await self._calls.done(
            call, send, "the tokens were not made by the deadline", report
        )
        return generate_messages.generated_of(frame)


class ProcessEngines:
    """The encoder and the decoder of one model, in the engine process.

    Args:
        link: The connections to that process, which has said what it serves.
        model: The model's number there.
    """

    def __init__(self, link: EngineLink, model: int) -> None:
        self._link, self._model = link, model
        self._calls = _Calls(link)
        self.encoder = RemoteEncoder(self._calls, model)
        self.decoder = RemoteDecoder(self._calls, model)
        self._generator = RemoteGenerator(self._calls, model)

    @property
    def generator(self) -> Generator | None:
        """The engine that makes tokens of a class; None where the model has no prior."""
        return None if self.info.prior is None else self._generator

    @property
    def _status(self) -> ModelStatus:
        return self._link.models[self._model]

    @property
    def info(self) -> ModelInfo:
        """The model as the engine process described it last."""
        return self._status.info

    @property
    def ready(self) -> bool:
        """Whether the engine process is there, and its engines are warmed up and working."""
        return self._link.here and self._status.ready and not self._calls.closed

    @property
    def alive(self) -> bool:
        """Whether the engines work, or the engine process is only being started again."""
        return self.complaint is None

    @property
    def complaint(self) -> str | None:
        """Why the engines are not alive; None when they are."""
        return self._status.complaint if self._link.here else self._link.complaint

    @property
    def waiting(self) -> int:
        """The number of pictures that this gateway waits for."""
        return self._calls.inside

    @property
    def backlog_seconds(self) -> float:
        """The time until the decoder has a free slot: what was told last, less the time since."""
        return max(0.0, self._status.backlog_seconds - self._link.told_seconds)

    @property
    def busy_seconds(self) -> float:
        """The age of the batch that runs now, in seconds; 0 when the device is idle."""
        return self._status.busy_seconds if self._link.here else 0.0

    @property
    def slots(self) -> Mapping[EngineKind, int]:
        """The rows of each engine's largest batch."""
        return self._status.slots

    def start(self) -> None:
        """Do nothing: the engine process starts its engines."""

    async def close(self, seconds: float) -> None:
        """Wait for the work inside, for at most ``seconds``."""
        await self._calls.close(seconds)
