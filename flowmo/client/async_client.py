"""The client for coroutines; :mod:`flowmo.client.client` is its twin for ordinary code."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar, Unpack, cast

import httpx

from flowmo.client import answers, batches, requests
from flowmo.client.attempts import Attempts
from flowmo.client.batches import DEFAULT_BATCH_SIZE, Chunk
from flowmo.client.calls import Call, CallOptions
from flowmo.client.clock import AsyncClock
from flowmo.client.connection import DEFAULT_TIMEOUT, DEFAULT_URL, Connection, check
from flowmo.client.errors import ClientError, ConnectionFailedError, ServerRefusedError
from flowmo.client.generate_calls import AsyncGenerateCalls
from flowmo.client.inputs import Picture, TokenSource
from flowmo.client.requests import Operation
from flowmo.client.retry import Retry
from flowmo.client.stream import EventReader, Final
from flowmo.client.values import (
    DecodedImage,
    DecodeEvent,
    EncodedImage,
    Fit,
    ImageFormat,
    ModelInfo,
    Preview,
    Priority,
    Progress,
    Region,
    Sampling,
)

T = TypeVar("T")
F = TypeVar("F")


class AsyncClient(AsyncGenerateCalls):
    """:class:`flowmo.client.Client` for coroutines of one asyncio loop: arguments, options, errors.

    Use it as an asynchronous context manager, or close it. Any number of calls may be under way.
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
        transport: httpx.AsyncBaseTransport | None = None,
        clock: AsyncClock | None = None,
    ) -> None:
        self._connection = Connection(
            url=url.rstrip("/"),
            api_key=api_key,
            timeout=timeout,
            defaults=Call(
                model=model, priority=priority, deadline=deadline, retry=retry or Retry()
            ),
        )
        self._clock = clock or AsyncClock()
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=self._connection.headers(), transport=transport
        )

    @property
    def url(self) -> str:
        """The address of the server, without a slash at its end."""
        return self._connection.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the server."""
        await self._http.aclose()

    async def tokenize(
        self,
        image: Picture,
        *,
        fit: Fit = "native",
        overlap: float | None = None,
        **options: Unpack[CallOptions],
    ) -> EncodedImage:
        """See :meth:`flowmo.client.Client.tokenize`."""
        attempts = self._attempts(options)
        # In a thread: a file is read, or an array compressed.
        operation = await asyncio.to_thread(requests.tokenize, image, fit=fit, overlap=overlap)
        return await self._run(operation, attempts)

    async def detokenize(
        self,
        tokens: TokenSource,
        *,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        region: Region | None = None,
        **options: Unpack[CallOptions],
    ) -> DecodedImage:
        """See :meth:`flowmo.client.Client.detokenize`."""
        attempts = self._attempts(options)
        operation = await asyncio.to_thread(
            requests.detokenize,
            tokens,
            sampling=sampling,
            format=format,
            quality=quality,
            region=region,
        )
        return await self._run(operation, attempts)

    async def reconstruct(
        self,
        image: Picture,
        *,
        fit: Fit = "native",
        overlap: float | None = None,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        **options: Unpack[CallOptions],
    ) -> DecodedImage:
        """See :meth:`flowmo.client.Client.reconstruct`."""
        attempts = self._attempts(options)
        operation = await asyncio.to_thread(
            requests.reconstruct,
            image,
            fit=fit,
            overlap=overlap,
            sampling=sampling,
            format=format,
            quality=quality,
        )
        return await self._run(operation, attempts)

    def stream_detokenize(
        self,
        tokens: TokenSource,
        *,
        sampling: Sampling | None = None,
        previews: Sequence[int] = (),
        format: ImageFormat = "png",
        quality: int | None = None,
        region: Region | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[DecodeEvent, None]:
        """See :meth:`flowmo.client.Client.stream_detokenize`.

        A loop that may be left early closes the connection at once inside
        ``async with contextlib.aclosing(client.stream_detokenize(...)) as events:``.
        """
        operation = requests.stream_detokenize(
            tokens,
            sampling=sampling,
            previews=previews,
            format=format,
            quality=quality,
            region=region,
        )
        # Not a generator itself: an option out of range is told here and not at the first event.
        return self._events(operation, self._attempts(options), answers.decoded_of_event)

    async def tokenize_many(
        self,
        images: Sequence[Picture],
        *,
        fit: Fit = "native",
        overlap: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **options: Unpack[CallOptions],
    ) -> list[EncodedImage | ServerRefusedError]:
        """See :meth:`flowmo.client.Client.tokenize_many`."""
        return await self._many(
            batches.tokenize(images, fit=fit, overlap=overlap, batch_size=batch_size), options
        )

    async def detokenize_many(
        self,
        tokens: Sequence[TokenSource],
        *,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **options: Unpack[CallOptions],
    ) -> list[DecodedImage | ServerRefusedError]:
        """See :meth:`flowmo.client.Client.detokenize_many`."""
        chunks = batches.detokenize(
            tokens, sampling=sampling, format=format, quality=quality, batch_size=batch_size
        )
        return await self._many(chunks, options)

    async def reconstruct_many(
        self,
        images: Sequence[Picture],
        *,
        fit: Fit = "native",
        overlap: float | None = None,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **options: Unpack[CallOptions],
    ) -> list[DecodedImage | ServerRefusedError]:
        """See :meth:`flowmo.client.Client.reconstruct_many`."""
        chunks = batches.reconstruct(
            images,
            fit=fit,
            overlap=overlap,
            sampling=sampling,
            format=format,
            quality=quality,
            batch_size=batch_size,
        )
        return await self._many(chunks, options)

    def picture_url(
        self,
        tokens: TokenSource,
        *,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
    ) -> str:
        """The URL of the image of tokens, for a browser, a page or a cache; nothing is sent.

        It carries the tokens themselves, so it means the same picture on every server that has the
        model. What ``sampling`` leaves out is the server's default, which may change: give steps,
        schedule, rho and guidance for a URL that caches may keep for ever.

        Args:
            tokens: As for :meth:`detokenize`.
            sampling: Seed, steps and guidance; it cannot allow to degrade.
            format: The format of the image.
            quality: The quality of JPEG and WebP, 1 to 100.

        Raises:
            ValueError: The sampling allows to degrade.
        """
        path = requests.picture_path(tokens, sampling=sampling, format=format, quality=quality)
        return self.url + path

    async def cancel(self, request_id: str, /, **options: Unpack[CallOptions]) -> int:
        """Give up a call that is under way, from elsewhere: another thread, task or client.

        That call raises :class:`ServerRefusedError` with the code ``cancelled``.

        Args:
            request_id: What was given to the call as ``request_id``.
            **options: See :class:`CallOptions`.

        Returns:
            How many requests ended with it; 0 if they had been cancelled before.

        Raises:
            ClientError: No answer came; the code is ``unknown-request`` when nothing of that name
                is under way.
            ValueError: No call can have such an id.
        """
        Call(request_id=request_id)  # checks it
        return await self._run(requests.cancel(request_id), self._attempts(options))

    async def models(self, **options: Unpack[CallOptions]) -> list[ModelInfo]:
        """See :meth:`flowmo.client.Client.models`."""
        return await self._run(requests.models(), self._attempts(options))

    async def is_ready(self) -> bool:
        """See :meth:`flowmo.client.Client.is_ready`."""
        try:
            await self._run(requests.ready(), self._attempts({"retry": Retry.none()}))
        except ClientError:
            return False
        return True

    def _attempts(self, options: CallOptions) -> Attempts:
        return self._connection.attempts(options, self._clock.now)

    async def _run(self, operation: Operation[T], attempts: Attempts) -> T:
        return self._connection.read(operation, await self._answer(operation, attempts))

    async def _answer(
        self, operation: Operation[T], attempts: Attempts, *, stream: bool = False
    ) -> httpx.Response:
        """An answer of status 2xx, after as many attempts as it takes."""
        while True:
            try:
                with self._connection.errors():
                    request = attempts.request(self._http, operation)
                    answer = await self._http.send(request, stream=stream)
                    if not answer.is_success:
                        await answer.aread()
                check(answer)
                return answer
            except ClientError as error:
                wait = attempts.wait_after(error)
                if wait is None:
                    raise
            await self._clock.sleep(wait)

    async def _events(
        self, operation: Operation[None], attempts: Attempts, final: Final[F]
    ) -> AsyncGenerator[Progress | Preview | F, None]:
        answer = await self._answer(operation, attempts, stream=True)
        try:
            with self._connection.errors(), self._connection.reading():
                reader = EventReader(answer, attempts.seconds, final)
                body = cast("AsyncGenerator[bytes, None]", answer.aiter_bytes())
                async with aclosing(body) as pieces:
                    async for piece in pieces:
                        for news in reader.read(piece):
                            yield news
        finally:
            await answer.aclose()
        if not reader.is_done:
            raise ConnectionFailedError(f"{self.url} ended its events before the image")

    async def _many(
        self, chunks: Iterable[Chunk[T]], options: CallOptions
    ) -> list[T | ServerRefusedError]:
        outcomes: list[T | ServerRefusedError] = []
        waiting = iter(chunks)
        while (chunk := await asyncio.to_thread(next, waiting, None)) is not None:
            await self._fill(chunk, self._attempts(options))
            outcomes += chunk.outcomes
        return outcomes

    async def _fill(self, chunk: Chunk[T], attempts: Attempts) -> None:
        """Ask for a chunk's items until each has an answer that stays."""
        try:
            while (refused := chunk.take(await self._run(chunk.operation(), attempts))) is not None:
                wait = attempts.wait_after(refused)
                if wait is None:
                    return
                await self._clock.sleep(wait)
        except ServerRefusedError as error:
            chunk.refuse(error)
