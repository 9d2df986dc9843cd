"""The calls of both clients that generate."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Protocol, TypeVar, Unpack

from flowmo.client import generation
from flowmo.client.attempts import Attempts
from flowmo.client.calls import CallOptions
from flowmo.client.generation import Class, GeneratedImage, GeneratedTokens, GenerateOptions
from flowmo.client.requests import Operation
from flowmo.client.stream import Final
from flowmo.client.values import ImageFormat, Preview, Progress

T = TypeVar("T")
F = TypeVar("F")


class _Client(Protocol):
    def _attempts(self, options: CallOptions) -> Attempts: ...

    def _run(self, operation: Operation[T], attempts: Attempts) -> T: ...

    def _events(
        self, operation: Operation[None], attempts: Attempts, final: Final[F]
    ) -> Generator[Progress | Preview | F, None, None]: ...


class _AsyncClient(Protocol):
    def _attempts(self, options: CallOptions) -> Attempts: ...

    async def _run(self, operation: Operation[T], attempts: Attempts) -> T: ...

    def _events(
        self, operation: Operation[None], attempts: Attempts, final: Final[F]
    ) -> AsyncGenerator[Progress | Preview | F, None]: ...


class GenerateCalls:
    """What :class:`flowmo.client.Client` generates."""

    __slots__ = ()

    def generate(
        self: _Client, class_: Class = None, *, count: int = 1, **options: Unpack[GenerateOptions]
    ) -> list[GeneratedTokens]:
        """Ask for the tokens of new images of a class.

        Args:
            class_: A class of the prior by name or number (:meth:`models`), None for none.
            count: How many images; each has the seed after the one before.
            **options: See :class:`flowmo.client.GenerateOptions`.

        Returns:
            The tokens of each image, which :meth:`detokenize` takes as they are.

        Raises:
            ClientError: No tokens came.
            ValueError: An option is out of range.
        """
        operation = generation.tokens_operation(class_, count, options)
        return self._run(operation, self._attempts(generation.call_options(options)))

    def generate_image(
        self: _Client,
        class_: Class = None,
        *,
        format: ImageFormat = "png",
        quality: int | None = None,
        decode_steps: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GeneratedImage:
        """Ask for a new image of a class: tokens, decoded in the same request.

        Args:
            class_: As for :meth:`generate`.
            format: The format of the answer.
            quality: The quality of JPEG and WebP, 1 to 100.
            decode_steps: The steps in which tokens become the image.
            **options: As for :meth:`generate`.

        Raises:
            ClientError: No image came.
        """
        operation = generation.image_operation(
            class_, options, format=format, quality=quality, decode_steps=decode_steps
        )
        return self._run(operation, self._attempts(generation.call_options(options)))

    def stream_generate(
        self: _Client,
        class_: Class = None,
        *,
        previews: Sequence[int] = (),
        preview_steps: int | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        decode_steps: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Progress | Preview | GeneratedImage, None, None]:
        """Ask for a new image while it is made: progress, previews, at the end the image.

        Leaving the loop early gives the image up, as of :meth:`stream_detokenize`.

        Args:
            class_: As for :meth:`generate`.
            previews: Steps of the prior, 1 for the first, after which what there is is decoded.
            preview_steps: The steps in which they are.
            format: The format of the answer and its previews.
            quality: The quality of JPEG and WebP, 1 to 100.
            decode_steps: The steps in which the tokens become the image at the end.
            **options: As for :meth:`generate`.

        Yields:
            A :class:`Progress` for each step, a :class:`Preview` where one is wanted, then the
            :class:`GeneratedImage` with its tokens.

        Raises:
            ClientError: No image came.
        """
        operation = generation.stream_operation(
            class_,
            options,
            previews=previews,
            preview_steps=preview_steps,
            format=format,
            quality=quality,
            decode_steps=decode_steps,
        )
        attempts = self._attempts(generation.call_options(options))
        return self._events(operation, attempts, generation.image_of_event)


class AsyncGenerateCalls:
    """What :class:`flowmo.client.AsyncClient` generates."""

    __slots__ = ()

    async def generate(
        self: _AsyncClient,
        class_: Class = None,
        *,
        count: int = 1,
        **options: Unpack[GenerateOptions],
    ) -> list[GeneratedTokens]:
        """See :meth:`flowmo.client.Client.generate`."""
        attempts = self._attempts(generation.call_options(options))
        # In a thread: a file may be read.
        operation = await asyncio.to_thread(generation.tokens_operation, class_, count, options)
        return await self._run(operation, attempts)

    async def generate_image(
        self: _AsyncClient,
        class_: Class = None,
        *,
        format: ImageFormat = "png",
        quality: int | None = None,
        decode_steps: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GeneratedImage:
        """See :meth:`flowmo.client.Client.generate_image`."""
        attempts = self._attempts(generation.call_options(options))
        operation = await asyncio.to_thread(
            generation.image_operation,
            class_,
            options,
            format=format,
            quality=quality,
            decode_steps=decode_steps,
        )
        return await self._run(operation, attempts)

    def stream_generate(
        self: _AsyncClient,
        class_: Class = None,
        *,
        previews: Sequence[int] = (),
        preview_steps: int | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
        decode_steps: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[Progress | Preview | GeneratedImage, None]:
        """See :meth:`flowmo.client.Client.stream_generate`."""
        attempts = self._attempts(generation.call_options(options))
        operation = generation.stream_operation(
            class_,
            options,
            previews=previews,
            preview_steps=preview_steps,
            format=format,
            quality=quality,
            decode_steps=decode_steps,
        )
        return self._events(operation, attempts, generation.image_of_event)
