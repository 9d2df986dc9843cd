"""The tiles of a picture through the encoder: each by itself, some at once, all by one model."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from flowmo.imaging.reading import Pixels
from flowmo.model.tiling import Tiling, frame_pixels
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import UPDATE_SECONDS, Encoded
from flowmo.service.errors import OtherWeightsError

# The tiles of one picture in the encoder's queue at once: enough for its batches, and others'
# pictures are never behind more of them.
TILES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedTiles:
    """A picture's tokens.

    Attributes:
        tokens: The tokens of all tiles.
        weights: The fingerprint of the weights that made them all.
        queue: The seconds until the first tile was begun.
        run: The seconds from then until the last was done; tiles that share a batch, or wait beside
            each other, count once.
    """

    tokens: Tokens
    weights: str
    queue: float
    run: float


Encode = Callable[[Pixels], Awaitable[Encoded]]


async def encode_tiles(
    pixels: Pixels, tiling: Tiling, encode: Encode, encode_later: Encode
) -> EncodedTiles:
    """Encode the tiles of a picture; they share the encoder's batches with everybody's.

    Args:
        pixels: uint8 [H, W, 3].
        tiling: The tiling of a picture of this size.
        encode: Encodes the first square, and may refuse it where the queue is full.
        encode_later: Encodes the others, and waits for room: a picture that was taken is not
            refused half-way, however small the queue is.

    Raises:
        OtherWeightsError: In a rolling update, encoders of different weights made them, again and
            again.
        Exception: The first error of a tile; the others are cancelled then.
    """
    frame = frame_pixels(pixels, tiling)
    loop = asyncio.get_running_loop()
    until = loop.time() + UPDATE_SECONDS
    while True:
        begun = loop.time()
        slots = asyncio.Semaphore(TILES_AT_ONCE)

        async def one(index: int, slots: asyncio.Semaphore = slots) -> Encoded:
            async with slots:
                square = frame[tiling[index].box]
                return await (encode_later(square) if index else encode(square))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(index)) for index in range(tiling.count)]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        made = [task.result() for task in tasks]
        weights = {one.weights for one in made}
        if len(weights) == 1:
            queue = min(one.timings.queue for one in made)
            return EncodedTiles(
                tokens=Tokens.join([one.tokens for one in made]),
                weights=weights.pop(),
                queue=queue,
                run=loop.time() - begun - queue,
            )
        if loop.time() > until:
            raise OtherWeightsError("the picture's tiles were encoded by models of other weights")
