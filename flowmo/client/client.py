"""The client for ordinary code; :mod:`flowmo.client.async_client` is its twin for coroutines."""

from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from flowmo.client import answers, batches, requests
from flowmo.client.attempts import Attempts
from flowmo.client.batches import DEFAULT_BATCH_SIZE, Chunk
from flowmo.client.calls import Call, CallOptions
from flowmo.client.clock import Clock
from flowmo.client.connection import DEFAULT_TIMEOUT, DEFAULT_URL, Connection, check
from flowmo.client.errors import ClientError, ConnectionFailedError, ServerRefusedError
from flowmo.client.generate_calls import GenerateCalls
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


class Client(GenerateCalls):
    """A connection to a server; use it as a context manager, or close it.

    Threads may share it. Every call takes the options of :class:`CallOptions` as further keyword
    arguments; those given here hold for calls that do not give them.

    Args:
        url: The address of the server, http or https.
        api_key: The key that is sent with every request.
        timeout: The longest wait for an answer, in seconds.
        model: One of the served models; see :class:`CallOptions`, as for the next three.
        priority: ``batch`` lets interactive work pass.
        deadline: Seconds for all attempts of a call.
        retry: How often to try.
        transport: How requests travel, if not as usual: a Unix socket, certificates of one's own.
        clock: What tells time and sleeps.

    Raises:
        ValueError: The URL is not an http or https URL, or an option is out of range.
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
        """The address of the server, without a slash at its end."""
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
        """Close the connections to the server."""
        self._http.close()

    def tokenize(
        self,
        image: Picture,
        *,
        fit: Fit = "native",
        overlap: float | None = None,
        **options: Unpack[CallOptions],
    ) -> EncodedImage:
        """Ask for the tokens of an image.

        Args:
            image: The path of an image file, its bytes, an array uint8 [H, W, 3], or Pillow's
                image; of any size. Files are JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF.
            fit: What becomes of it: ``native`` covers it with tiles of the model's size and gives
                it back as it was; ``crop``, ``pad`` and ``stretch`` make one square of it.
            overlap: The share of a tile's side that neighbouring tiles have in common at least, 0
                to 0.5; the server's by default.
            **options: See :class:`CallOptions`.

        Returns:
            The tokens, which :meth:`detokenize` takes as they are.

        Raises:
            ClientError: No tokens came.
            OSError: The file cannot be read; so for all calls.
            TypeError: The image is nothing of these; so for all calls.
            ValueError: An option is out of range, or an array is no picture; so for all calls.
        """
        return self._run(
            requests.tokenize(image, fit=fit, overlap=overlap), self._attempts(options)
        )

    def detokenize(
        self,
        tokens: TokenSource,
        *,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        region: Region | None = None,
        **options: Unpack[CallOptions],
    ) -> DecodedImage:
        """Ask for the image of tokens.

        Args:
            tokens: What :meth:`tokenize` gave, a container, its bytes, or the path of a
                ``.flowmo`` file.
            sampling: Seed, steps and guidance.
            format: The format of the answer.
            quality: The quality of JPEG and WebP, 1 to 100.
            region: Left, top, width and height in pixels of the part that is wanted; all by
                default. Only the tiles that touch it are decoded.
            **options: See :class:`CallOptions`.

        Returns:
            The image file and how it was made.

        Raises:
            ClientError: No image came.
        """
        operation = requests.detokenize(
            tokens, sampling=sampling, format=format, quality=quality, region=region
        )
        return self._run(operation, self._attempts(options))

    def reconstruct(
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
        """Ask for an image through tokens and back.

        Args:
            image: As for :meth:`tokenize`.
            fit: As for :meth:`tokenize`.
            overlap: As for :meth:`tokenize`.
            sampling: As for :meth:`detokenize`.
            format: As for :meth:`detokenize`.
            quality: As for :meth:`detokenize`.
            **options: See :class:`CallOptions`.

        Returns:
            The image file and how it was made.

        Raises:
            ClientError: No image came.
        """
        operation = requests.reconstruct(
            image, fit=fit, overlap=overlap, sampling=sampling, format=format, quality=quality
        )
        return self._run(operation, self._attempts(options))

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
    ) -> Generator[DecodeEvent, None, None]:
        """Ask for the image of tokens while it is made: progress, previews, at the end the image.

        The request is sent when the first event is asked for. Leaving the loop early closes the
        connection, whereupon the server gives up the decode. What has begun is not tried again.

        Args:
            tokens: As for :meth:`detokenize`.
            sampling: Seed, steps and guidance.
            previews: Steps, 1 for the first, after which the image so far is wanted; at most 32.
            format: The format of the answer and its previews.
            quality: The quality of JPEG and WebP, 1 to 100.
            region: Left, top, width and height in pixels of the part that is wanted; all by
                default. Only the tiles that touch it are decoded.
            **options: See :class:`CallOptions`.

        Yields:
            A :class:`Progress` for each step, a :class:`Preview` where one is wanted, then the
            :class:`DecodedImage`.

        Raises:
            ClientError: No image came.
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

    def tokenize_many(
        self,
        images: Sequence[Picture],
        *,
        fit: Fit = "native",
        overlap: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **options: Unpack[CallOptions],
    ) -> list[EncodedImage | ServerRefusedError]:
        """Ask for the tokens of many images; a refused one costs the others nothing.

        Items that the server had no room for are sent again, as a call would be. Files are read as
        their turn comes.

        Args:
            images: Any number of what :meth:`tokenize` takes.
            fit: As for :meth:`tokenize`.
            overlap: As for :meth:`tokenize`.
            batch_size: How many images go in one request, 1 to 64; fewer when files are large.
            **options: See :class:`CallOptions`.

        Returns:
            One outcome for each image, in order: its tokens, or why there are none.

        Raises:
            ClientError: The server could not be asked, or did not answer.
            FileNotFoundError: A path leads to no file; nothing has been sent then.
        """
        return self._many(
            batches.tokenize(images, fit=fit, overlap=overlap, batch_size=batch_size), options
        )

    def detokenize_many(
        self,
        tokens: Sequence[TokenSource],
        *,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **options: Unpack[CallOptions],
    ) -> list[DecodedImage | ServerRefusedError]:
        """Ask for the images of many token sets; a refused one costs the others nothing.

        Args:
            tokens: Any number of what :meth:`detokenize` takes.
            sampling: As for :meth:`detokenize`, for all of them.
            format: As for :meth:`detokenize`.
            quality: As for :meth:`detokenize`.
            batch_size: As for :meth:`tokenize_many`.
            **options: See :class:`CallOptions`.

        Returns:
            One outcome for each token set, in order: its image, or why there is none.

        Raises:
            ClientError: The server could not be asked, or did not answer.
            FileNotFoundError: A path leads to no file; nothing has been sent then.
        """
        chunks = batches.detokenize(
            tokens, sampling=sampling, format=format, quality=quality, batch_size=batch_size
        )
        return self._many(chunks, options)

    def reconstruct_many(
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
        """Ask for many images through tokens and back; a refused one costs the others nothing.

        Args:
            images: Any number of what :meth:`tokenize` takes.
            fit: As for :meth:`tokenize`.
            overlap: As for :meth:`tokenize`.
            sampling: As for :meth:`detokenize`, for all of them.
            format: As for :meth:`detokenize`.
            quality: As for :meth:`detokenize`.
            batch_size: As for :meth:`tokenize_many`.
            **options: See :class:`CallOptions`.

        Returns:
            One outcome for each image, in order: the decoded image, or why there is none.

        Raises:
            ClientError: The server could not be asked, or did not answer.
            FileNotFoundError: A path leads to no file; nothing has been sent then.
        """
        chunks = batches.reconstruct(
            images,
            fit=fit,
            overlap=overlap,
            sampling=sampling,
            format=format,
            quality=quality,
            batch_size=batch_size,
        )
        return self._many(chunks, options)

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

    def cancel(self, request_id: str, /, **options: Unpack[CallOptions]) -> int:
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
        return self._run(requests.cancel(request_id), self._attempts(options))

    def models(self, **options: Unpack[CallOptions]) -> list[ModelInfo]:
        """Ask which models the server serves.

        Args:
            **options: See :class:`CallOptions`.

        Raises:
            ClientError: No answer came.
        """
        return self._run(requests.models(), self._attempts(options))

    def is_ready(self) -> bool:
        """Whether the server has warmed up; false when there is none. It is asked once."""
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
        self, operation: Operation[None], attempts: Attempts, final: Final[F]
    ) -> Generator[Progress | Preview | F, None, None]:
        answer = self._answer(operation, attempts, stream=True)
        try:
            with self._connection.errors(), self._connection.reading():
                reader = EventReader(answer, attempts.seconds, final)
                for piece in answer.iter_bytes():
                    yield from reader.read(piece)
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
