"""What one request has done with one model."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Self, TypeVar

import numpy as np

from flowmo.imaging.fit import Fit
from flowmo.imaging.reading import Pixels
from flowmo.imaging.worker import SquareImage, SquareRequest
from flowmo.imaging.writing import ImageFormat, encode_image
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.layout import PictureLayout
from flowmo.model.tiling import overlap_pixels
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    UPDATE_SECONDS,
    Call,
    Decoded,
    DecodeOptions,
    Encoded,
    Region,
    Watch,
)
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.shared_calls import until_deadline
from flowmo.service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    OtherWeightsError,
)
from flowmo.service.http.cache import CacheEntry, CacheResult, Make
from flowmo.service.http.encode_tiles import encode_tiles
from flowmo.service.http.item_feed import when_there_is_room
from flowmo.service.http.picture import Picture, check_region, shaped
from flowmo.service.http.request_scope import WorkScope
from flowmo.service.http.service import Service
from flowmo.service.http.stage_clock import StageClock
from flowmo.service.models import Served

R = TypeVar("R")

# What a cache entry takes beside the picture's file and its tokens: key, options, the entry itself.
ENTRY_BYTES = 1024


class Job:
    """What one request has done with one model.

    Args:
        service: The parts that all routes share.
        scope: The request that the work is for.
        served: The model that does the work; :meth:`begin` keeps it from being closed meanwhile.
        waits: Whether the work waits for room in a full queue, as items of a batch do, rather than
            being refused.

    Attributes:
        clock: How long each stage of the request took.
        fingerprint: 32 hex digits that name the weights that the work was done with.
    """

    def __init__(
        self, service: Service, scope: WorkScope, served: Served, *, waits: bool = False
    ) -> None:
        self._service, self._scope, self._waits = service, scope, waits
        self.name, self.engines = served.name, served.engines
        self.clock = StageClock(service.metrics, served.name)
        self.fingerprint = served.engines.info.fingerprint

    @classmethod
    def begin(
        cls, service: Service, scope: WorkScope, served: Served, *, waits: bool = False
    ) -> Self:
        """Begin work with a model, which stays until the request's scope ends."""
        scope.resources.enter_context(service.models.use(served))
        return cls(service, scope, served, waits=waits)

    @property
    def call(self) -> Call:
        """The deadline and the priority of the request."""
        return self._scope.call

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

    async def encode(self, pixels: Pixels, layout: PictureLayout | None = None) -> ImageTokens:
        """Encode a picture; :attr:`fingerprint` names the weights that did it from now on.

        Args:
            pixels: uint8 [S, S, 3]; of a layout of several tiles [H, W, 3].
            layout: The picture and its tiles; one square without it.

        Raises:
            OtherWeightsError: Encoders stay at different weights.
            RequestError: See :meth:`EncoderEngine.encode`.
        """
        size = self.info.image_size
        layout = layout or PictureLayout(width=size, height=size, tile_size=size)
        await self._scope.spend(pictures=layout.tiles)
        call = self._scope.call
        tiles = await encode_tiles(
            pixels,
            layout.tiling,
            lambda tile: self._asked(call, self._encoding(tile)),
            lambda tile: when_there_is_room(call, self._encoding(tile)),
        )
        self._service.metrics.picture(self.name, layout)
        self.clock.add({"queue": tiles.queue, "encode": tiles.run})
        self.fingerprint = tiles.weights
        return ImageTokens.in_layout(
            tiles.tokens.ids,
            layout,
            group_bits=tiles.tokens.group_bits,
            fingerprint=self.fingerprint,
        )

    def _encoding(self, tile: Pixels) -> Callable[[Call], Awaitable[Encoded]]:
        return lambda call: self.engines.encoder.encode(tile, call)

    def layout_of(self, upload: SquareImage, overlap: float) -> PictureLayout:
        """The tiles of an upload.

        Args:
            upload: What was read.
            overlap: The share of a tile's side that neighbours have in common at least.

        Raises:
            PictureTooLargeError: There are more than the server takes.
        """
        size = self.info.image_size
        layout = PictureLayout(
            width=upload.width,
            height=upload.height,
            tile_size=size,
            overlap=overlap_pixels(size, overlap),
            fit=upload.fitted.report.fit,
        )
        layout.check_limits(max_pixels=None, max_tiles=self._service.settings.max_tiles)
        return layout

    async def reconstruct(
        self,
        pixels: Pixels,
        options: DecodeOptions,
        format: ImageFormat,
        quality: int,
        layout: PictureLayout | None = None,
    ) -> CacheResult[Picture]:
        """Encode a picture and decode its tokens, both with the same weights.

        In a rolling update the encoder that was asked may have weights that no decoder has yet, or
        has any more; then another one is asked.

        Args:
            pixels: uint8 [S, S, 3].
            options: How the tokens are decoded.
            format: The format of the resulting file.
            quality: 1 to 100, for formats that lose something.
            layout: The picture and its tiles; one square without it.

        Raises:
            OtherWeightsError: Encoders and decoders stay at different weights.
            DeadlineExceededError: Another request was decoding the same picture, and did not finish
                in time.
        """
        until = time.monotonic() + UPDATE_SECONDS
        while True:
            tokens = await self.encode(pixels, layout)
            try:
                return await self.decode(tokens, replace(options, patience=0.5), format, quality)
            except OtherWeightsError:
                if time.monotonic() > until:
                    raise

    async def decode(
        self, tokens: ImageTokens, options: DecodeOptions, format: ImageFormat, quality: int
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

        async def make(call: Call) -> CacheEntry[Picture]:
            value = await self._picture(
                tokens, replace(options, degrade=False), call, format, quality
            )
            size = len(value.data) + tokens.ids.nbytes + ENTRY_BYTES
            return CacheEntry(value=value, size=size)

        call = self._scope.call
        # What makes no other picture is not in it: who waits how long, and who would take less.
        key = (
            self.fingerprint,
            tokens.ids.tobytes(),
            tokens.layout,
            options.region,
            options.seed,
            options.sampler,
        )
        until = time.monotonic() + options.patience
        try:
            async with until_deadline(call):
                try:
                    result = await self._cached((*key, format, quality), make, options, until)
                except DeadlineUnreachableError:
                    if not options.degrade:
                        raise
                    # Of fewer steps: for this request alone, and never kept.
                    value = await self._picture(tokens, options, call, format, quality)
                    result = CacheResult(value=value, outcome="miss")
        except TimeoutError:
            raise DeadlineExceededError("the picture was not made by the deadline") from None
        self._service.metrics.cached(self.name, result.outcome, self._service.cached_bytes)
        return result

    async def _cached(
        self, key: tuple[object, ...], make: Make[Picture], options: DecodeOptions, until: float
    ) -> CacheResult[Picture]:
        call = self._scope.call
        while True:
            try:
                return await self._service.pictures.get(key, make, call, impatient=options.degrade)
            except OtherWeightsError:  # another request that was making it may give up sooner
                if time.monotonic() >= until:
                    raise

    async def _picture(
        self,
        tokens: ImageTokens,
        options: DecodeOptions,
        call: Call,
        format: ImageFormat,
        quality: int,
    ) -> Picture:
        decoded = await self.pixels(tokens, options, call)
        data = await self.render(decoded.pixels, format, quality, tokens.layout, options.region)
        return Picture(data, decoded.sampler)

    async def pixels(
        self,
        tokens: Tokens,
        options: DecodeOptions,
        call: Call | None = None,
        watch: Watch | None = None,
    ) -> Decoded:
        """Decode a token set to pixels, past the cache, with the weights of :attr:`fingerprint`.

        Args:
            tokens: Tokens of the model.
            options: How the tokens are decoded. Of one tile the whole square comes, whatever the
                region: :meth:`render` cuts it out.
            call: How long the result is waited for, and how urgently; the request's by default.
            watch: How progress is reported; it is not without it.

        Raises:
            RequestError: See :meth:`DecoderEngine.decode`.
        """
        layout = tokens.layout if isinstance(tokens, ImageTokens) else None
        if layout is not None:
            check_region(layout, options.region)
        if layout is not None and layout.tiles > 1:
            own = replace(options, weights=self.fingerprint, layout=layout)
            tiles = len(layout.tiling.touching(*options.region)) if options.region else layout.tiles
            self._service.metrics.picture(self.name, layout)
        else:
            tiles = 1
            own = replace(options, weights=self.fingerprint, region=None)
            tokens = tokens.tile(0)  # as the engine takes a square
        await self._scope.spend(pictures=tiles, steps=tiles * options.sampler.steps)

        async def decode(call: Call) -> Decoded:
            return await self.engines.decoder.decode(tokens, own, call, watch)

        decoded = await self._asked(call or self._scope.call, decode)
        self.clock.add_decode(decoded)
        return decoded

    async def _asked(self, call: Call, work: Callable[[Call], Awaitable[R]]) -> R:
        return await (when_there_is_room(call, work) if self._waits else work(call))

    async def render(
        self,
        pixels: Pixels,
        format: ImageFormat,
        quality: int,
        layout: PictureLayout | None = None,
        region: Region | None = None,
    ) -> bytes:
        """Write what a decoder made as an image file.

        Args:
            pixels: uint8 [H, W, 3].
            format: The file's format.
            quality: 1 to 100, for formats that lose something.
            layout: The picture whose size and shape the file has; the pixels' own without it.
            region: The part of it that is wanted.
        """

        def work() -> bytes:
            made = pixels if layout is None else shaped(pixels, layout, region)
            return encode_image(np.ascontiguousarray(made), format, quality=quality)

        return await self._service.image_threads.run(work, "encode_image", self.clock)
