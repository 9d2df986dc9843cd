"""What one request has done with one model."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Self

from flowmo.imaging.fit import Fit
from flowmo.imaging.reading import Pixels
from flowmo.imaging.worker import SquareImage, SquareRequest
from flowmo.imaging.writing import ImageFormat, encode_image
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import UPDATE_SECONDS, Decoded, DecodeOptions
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.errors import DeadlineExceededError, OtherWeightsError
from flowmo.service.http.cache import CacheEntry, CacheResult
from flowmo.service.http.picture import Picture
from flowmo.service.http.request_scope import RequestScope
from flowmo.service.http.service import Service
from flowmo.service.http.stage_clock import StageClock
from flowmo.service.models import Served

# What a cache entry takes beside the picture's file and its tokens: key, options, the entry itself.
_ENTRY_BYTES = 1024


class Job:
    """What one request has done with one model.

    Args:
        service: The parts that all routes share.
        scope: The request that the work is for.
        served: The model that does the work; :meth:`begin` keeps it from being closed meanwhile.

    Attributes:
        clock: How long each stage of the request took.
        fingerprint: 32 hex digits that name the weights that the work was done with.
    """

    def __init__(self, service: Service, scope: RequestScope, served: Served) -> None:
        self._service, self._scope = service, scope
        self.name, self.engines = served.name, served.engines
        self.clock = StageClock(service.metrics, served.name)
        self.fingerprint = served.engines.info.fingerprint

    @classmethod
    def begin(cls, service: Service, scope: RequestScope, served: Served) -> Self:
        """Begin work with a model, which stays until the request's scope ends."""
        scope.resources.enter_context(service.models.use(served))
        return cls(service, scope, served)

    @property
    def info(self) -> ModelInfo:
        """The model's shapes, weights and device."""
        return self.engines.info

    async def read(self, data: bytes, fit: Fit) -> SquareImage:
        """Decode an uploaded file and fit it to the model's square.

        Args:
            data: The bytes of an image file.
            fit: How a picture that is no square becomes one.

        Raises:
            ImageError: The file is no image that can be used.
            DeadlineExceededError: It was not read by the request's deadline.
        """
        request = SquareRequest(
            max_pixels=self._service.settings.max_pixels, size=self.info.image_size, fit=fit
        )
        readers = self._service.image_readers
        return await readers.read(data, request, self.clock, self._scope.call)

    async def encode(self, pixels: Pixels) -> Tokens:
        """Encode a picture; :attr:`fingerprint` names the weights that did it from now on.

        Args:
            pixels: uint8 [S, S, 3].

        Raises:
            RequestError: See :meth:`EncoderEngine.encode`.
        """
        encoded = await self.engines.encoder.encode(pixels, self._scope.call)
        self.clock.add({"queue": encoded.timings.queue, "encode": encoded.timings.run})
        self.fingerprint = encoded.weights
        return encoded.tokens

    async def reconstruct(
        self, pixels: Pixels, options: DecodeOptions, format: ImageFormat, quality: int
    ) -> CacheResult[Picture]:
        """Encode a picture and decode its tokens, both with the same weights.

        In a rolling update the encoder that was asked may have weights that no decoder has yet, or
        has any more; then another one is asked.

        Args:
            pixels: uint8 [S, S, 3].
            options: How the tokens are decoded.
            format: The format of the resulting file.
            quality: 1 to 100, for formats that lose something.

        Raises:
            OtherWeightsError: Encoders and decoders stay at different weights.
            DeadlineExceededError: Another request was decoding the same picture, and did not finish
                in time.
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
    ) -> CacheResult[Picture]:
        """Decode a token set to a file, unless the cache has the file or will soon have it.

        Args:
            tokens: A token set of the model.
            options: How the tokens are decoded.
            format: The format of the resulting file.
            quality: 1 to 100, for formats that lose something.

        Raises:
            OtherWeightsError: No decoder has the weights that the tokens are for.
            DeadlineExceededError: Another request was decoding the same picture, and did not finish
                in time.
        """

        async def make() -> CacheEntry[Picture]:
            decoded = await self.pixels(tokens, options)
            data = await self.render(decoded.pixels, format, quality)
            # One with fewer steps is not what the next request asks for.
            whole = decoded.sampler == options.sampler
            size = len(data) + tokens.ids.nbytes + _ENTRY_BYTES
            return CacheEntry(value=Picture(data, decoded.sampler), size=size if whole else None)

        # Who waits how long makes no other picture.
        key_options = replace(options, patience=UPDATE_SECONDS)
        key = (self.fingerprint, tokens.ids.tobytes(), key_options, format, quality)
        remaining = self._scope.call.remaining
        until = time.monotonic() + options.patience
        try:
            async with asyncio.timeout(None if math.isinf(remaining) else remaining):
                result = await self._cached(key, make, until)
        except TimeoutError:
            raise DeadlineExceededError("the picture was not made by the deadline") from None
        self._service.metrics.cached(self.name, result.outcome, self._service.pictures.size)
        return result

    async def _cached(
        self,
        key: tuple[object, ...],
        make: Callable[[], Coroutine[None, None, CacheEntry[Picture]]],
        until: float,
    ) -> CacheResult[Picture]:
        while True:
            try:
                return await self._service.pictures.get(key, make)
            except OtherWeightsError:  # another request that was making it may give up sooner
                if time.monotonic() >= until:
                    raise

    async def pixels(self, tokens: Tokens, options: DecodeOptions) -> Decoded:
        """Decode a token set to pixels, past the cache.

        Raises:
            RequestError: See :meth:`DecoderEngine.decode`.
        """
        own = replace(options, weights=self.fingerprint)
        decoded = await self.engines.decoder.decode(tokens, own, self._scope.call)
        self.clock.add_decode(decoded)
        return decoded

    async def render(self, pixels: Pixels, format: ImageFormat, quality: int) -> bytes:
        """Write a picture, uint8 [S, S, 3], as an image file."""

        def work() -> bytes:
            return encode_image(pixels, format, quality=quality)

        return await self._service.image_threads.run(work, "encode_image", self.clock)
