"""The client for ordinary code; :mod:`flowmo.client.async_client` is its twin for coroutines."""

from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource

from flowmo.client import batches, requests
from flowmo.client.attempts import Attempts
from flowmo.client.batches import DEFAULT_BATCH_SIZE, Chunk
from flowmo.client.calls import Call, CallOptions
from flowmo.client.clock import Clock
from flowmo.client.connection import DEFAULT_TIMEOUT, DEFAULT_URL, Connection, check
from flowmo.client.errors import ClientError, ConnectionFailedError, ServerRefusedError
from flowmo.client.requests import Operation
from flowmo.client.retry import Retry
from flowmo.client.stream import EventReader
from flowmo.client.values import (
    DecodedImage,
    DecodeEvent,
    EncodedImage,
    Fit,
    ImageFormat,
    ModelInfo,
    Priority,
    Sampling,
)
from flowmo.model.container import Container

T = TypeVar("T")


class Client:
    """A connection to a server; use it as a context manager, or close it.

    Threads may share it. Every call takes the options of :class:`CallOptions` as further keyword
    arguments; those given here hold for calls that do not give them.

    Args:
        url: of the server.
        api_key: sent with every request.
        timeout: longest wait for an answer, in seconds.
        model: see :class:`CallOptions`, as for the next three.
        priority: ``batch`` lets interactive work pass.
        deadline: seconds for all attempts of a call.
        retry: how often to try.
        transport: how requests travel, if not as usual: a Unix socket, certificates of one's own.
        clock: tells time and sleeps.

    Raises:
        ValueError: not an http or https URL, or an option out of range.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        model: str | None = None,
        priority: Priority | None = None,
        deadline: float | None = None,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._connection = Connection(
            url=url.rstrip("/"),
            api_key=api_key,
            timeout=timeout,
            defaults=Call(
                model=model, priority=priority, deadline=deadline, retry=retry or Retry()
            ),
        )
        self._clock = clock or Clock()
        self._http = httpx.Client(
            base_url=self.url, headers=self._connection.headers(), transport=transport
        )

    @property
    def url(self) -> str:
        """Of the server."""
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def tokenize(
        self, image: bytes, *, fit: Fit = "crop", **options: Unpack[CallOptions]
    ) -> EncodedImage:
        """Tokens of an image file.

        Args:
            image: JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF.
            fit: how it becomes the model's square.
            **options: see :class:`CallOptions`.

        Raises:
            ClientError: no tokens came.
            ValueError: an option out of range; so for all calls.
        """
        return self._run(requests.tokenize(image, fit=fit), self._attempts(options))

    def detokenize(
        self,
        container: Container | bytes,
        *,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        **options: Unpack[CallOptions],
    ) -> DecodedImage:
        """The image of tokens.

        Args:
            container: as :meth:`tokenize` gave it, or its bytes.
            sampling: seed, steps and guidance.
            format: of the answer.
            quality: 1 to 100, of JPEG and WebP.
            **options: see :class:`CallOptions`.

        Raises:
            ClientError: no image came.
        """
        operation = requests.detokenize(
            container, sampling=sampling, format=format, quality=quality
        )
        return self._run(operation, self._attempts(options))

    def reconstruct(
        self,
        image: bytes,
        *,
        fit: Fit = "crop",
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        **options: Unpack[CallOptions],
    ) -> DecodedImage:
        """An image file through tokens and back; arguments as of the other two.

        Raises:
            ClientError: no image came.
        """
        operation = requests.reconstruct(
            image, fit=fit, sampling=sampling, format=format, quality=quality
        )
        return self._run(operation, self._attempts(options))

    def stream_detokenize(
        self,
        container: Container | bytes,
        *,
        sampling: Sampling | None = None,
        previews: Sequence[int] = (),
        format: ImageFormat = "png",
        quality: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Generator[DecodeEvent, None, None]:
        """The image of tokens while it is made: its progress, previews, and at the end itself.

        The request is sent when the first event is asked for. Leaving the loop early closes the
        connection, whereupon the server gives up the decode. What has begun is not tried again.

        Args:
            container: as :meth:`tokenize` gave it, or its bytes.
            sampling: seed, steps and guidance.
            previews: steps, 1 for the first, after which the image so far is wanted; at most 32.
            format: of the answer and its previews.
            quality: 1 to 100, of JPEG and WebP.
            **options: see :class:`CallOptions`.

        Yields:
            A :class:`Progress` for each step, a :class:`Preview` where one is wanted, then the
            :class:`DecodedImage`.

        Raises:
            ClientError: no image came.
        """
        operation = requests.stream_detokenize(
            container, sampling=sampling, previews=previews, format=format, quality=quality
        )
        # Not a generator itself: an option out of range is told here and not at the first event.
        return self._events(operation, self._attempts(options))

    def tokenize_many(
        self,
        images: Sequence[bytes],
        *,
        fit: Fit = "crop",
        batch_size: int = DEFAULT_BATCH_SIZE,
        **options: Unpack[CallOptions],
    ) -> list[EncodedImage | ServerRefusedError]:
        """Tokens of many image files, or why there are none: one item costs the others nothing.

        Items that the server had no room for are sent again, as a call would be.

        Args:
            images: as of :meth:`tokenize`, any number.
            fit: how each becomes the model's square.
            batch_size: images in one request, at most; 1 to 64. Large files go in smaller groups.
            **options: see :class:`CallOptions`.

        Returns:
            One outcome for each image, in order.

        Raises:
            ClientError: the server could not be asked, or did not answer.
        """
        return self._many(batches.tokenize(images, fit=fit, batch_size=batch_size), options)

    def detokenize_many(
        self,
        containers: Sequence[Container | bytes],
        *,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **options: Unpack[CallOptions],
    ) -> list[DecodedImage | ServerRefusedError]:
        """Images of many tokens; arguments as of :meth:`detokenize` and :meth:`tokenize_many`.

        Raises:
            ClientError: the server could not be asked, or did not answer.
        """
        chunks = batches.detokenize(
            containers, sampling=sampling, format=format, quality=quality, batch_size=batch_size
        )
        return self._many(chunks, options)

    def reconstruct_many(
        self,
        images: Sequence[bytes],
        *,
        fit: Fit = "crop",
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **options: Unpack[CallOptions],
    ) -> list[DecodedImage | ServerRefusedError]:
        """Many image files through tokens and back; arguments as of the other two.

        Raises:
            ClientError: the server could not be asked, or did not answer.
        """
        chunks = batches.reconstruct(
            images,
            fit=fit,
            sampling=sampling,
            format=format,
            quality=quality,
            batch_size=batch_size,
        )
        return self._many(chunks, options)

    def models(self, **options: Unpack[CallOptions]) -> list[ModelInfo]:
        """What the server serves.

        Raises:
            ClientError: no answer came.
        """
        return self._run(requests.models(), self._attempts(options))

    def is_ready(self) -> bool:
        """Whether the server has warmed up; false when there is none. Asks once."""
        try:
            self._run(requests.ready(), self._attempts({"retry": Retry.none()}))
        except ClientError:
            return False
        return True

    def _attempts(self, options: CallOptions) -> Attempts:
        return self._connection.attempts(options, self._clock.now)

    def _run(self, operation: Operation[T], attempts: Attempts) -> T:
        return self._connection.read(operation, self._answer(operation, attempts))

    def _answer(
        self, operation: Operation[T], attempts: Attempts, *, stream: bool = False
    ) -> httpx.Response:
        """An answer of status 2xx, after as many attempts as it takes."""
        while True:
            try:
                with self._connection.errors():
                    request = attempts.request(self._http, operation)
                    answer = self._http.send(request, stream=stream)
                    if not answer.is_success:
                        answer.read()
                check(answer)
                return answer
            except ClientError as error:
                wait = attempts.wait_after(error)
                if wait is None:
                    raise
            self._clock.sleep(wait)

    def _events(
        self, operation: Operation[None], attempts: Attempts
    ) -> Generator[DecodeEvent, None, None]:
        answer = self._answer(operation, attempts, stream=True)
        reader = EventReader(answer, attempts.seconds)
        try:
            with self._connection.errors(), self._connection.reading():
                for event in EventSource(answer).iter_sse():
                    news = reader.read(event)
                    if news is not None:
                        yield news
        finally:
            answer.close()
        if not reader.is_done:
            raise ConnectionFailedError(f"{self.url} ended its events before the image")

    def _many(
        self, chunks: Iterable[Chunk[T]], options: CallOptions
    ) -> list[T | ServerRefusedError]:
        outcomes: list[T | ServerRefusedError] = []
        for chunk in chunks:
            self._fill(chunk, self._attempts(options))
            outcomes += chunk.outcomes
        return outcomes

    def _fill(self, chunk: Chunk[T], attempts: Attempts) -> None:
        """Ask for a chunk's items until each has an answer that stays."""
        try:
            while (refused := chunk.take(self._run(chunk.operation(), attempts))) is not None:
                wait = attempts.wait_after(refused)
                if wait is None:
                    return
                self._clock.sleep(wait)
        except ServerRefusedError as error:
            chunk.refuse(error)
