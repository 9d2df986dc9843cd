"""A decode of a picture of several tiles: each step's rows are spread over ticks.

A picture of T tiles has T rows a step (2T where it is guided), which may be more than a batch
holds. Each tile is a part of its own: some of them are in a tick, beside the squares and tiles of
others, and the step is made when all of them are in. The state is the whole frame, and the tiles'
velocities are blended into one as they come (supplement C.2, :mod:`flowmo.model.tiled_sampling`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from flowmo.imaging.reading import Pixels
from flowmo.model.layout import PictureLayout
from flowmo.model.sampler import noise
from flowmo.model.tiling import TilingPart, axis_weights
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Region
from flowmo.service.engine.decode_work import DecodeWork, Strips
from flowmo.service.engine.runner import DecoderRunner
from flowmo.service.engine.state_table import Velocity

if TYPE_CHECKING:
    from torch import Tensor

# Of all frames inside; a pixel takes 24 bytes, the state's and the velocity's.
MAX_PIXELS_INSIDE = 64_000_000
# Rows of a frame that are turned into bytes at once.
_STRIP = 256


@dataclass(eq=False, slots=True, kw_only=True)
class PictureWork(DecodeWork):
    """A picture that waits or is under way; on the device thread once it is in the queue.

    Attributes:
        part: The tiles that are decoded.
        box: The rows and columns of their frame that are wanted.
        x: The state, float32 [3, H, W].
        conditions: The condition of each tile, [T, K, D + 1].
        v: The velocity of the step under way, as far as its tiles are in.
        weights: How much each row and column of tiles counts, on the device.
        tile: The number of tiles of the step under way that the device was given.
        step_seconds: The time of the ticks of the step under way.
    """

    part: TilingPart
    box: tuple[slice, slice]
    x: "Tensor | None"
    conditions: "Tensor | None"
    v: "Tensor | None" = None
    weights: "tuple[Tensor, Tensor] | None" = None
    tile: int = 0
    step_seconds: float = field(default=0.0)

    @property
    def ready_parts(self) -> int:
        """See :class:`Job`."""
        return self.part.tiling.count - self.tile

    @property
    def rows_left(self) -> int:
        """See :class:`Job`."""
        whole = sum(self.rows[self.step :]) * self.part.tiling.count
        return whole - (self.tile * self.rows[self.step] if self.tile else 0)

    @property
    def most_rows(self) -> int:
        """The most rows that a step has."""
        return max(self.rows) * self.part.tiling.count

    def place(self, device: torch.device) -> None:
        """Move the state to the device, unless it is there; if it fails, it can be done again."""
        if self.v is not None:
            return
        tiling = self.part.tiling
        x, conditions = _present(self.x), _present(self.conditions)
        across = torch.from_numpy(axis_weights(tiling.lefts, tiling.size)).to(device, torch.float32)
        down = torch.from_numpy(axis_weights(tiling.tops, tiling.size)).to(device, torch.float32)
        self.x, self.conditions = x.to(device), conditions.to(device)
        self.weights = down, across
        self.v = torch.zeros_like(self.x)

    def release(self) -> None:
        """Forget the state; what the device has been asked to do with it is not changed."""
        self.x = self.conditions = self.v = self.weights = None

    def blend(self, velocities: "Tensor") -> None:
        """Add the velocities of the next tiles to the frame's.

        Args:
            velocities: float32 [n, 3, S, S], with guidance.
        """
        tiling, total = self.part.tiling, _present(self.v)
        assert self.weights is not None
        down, across = self.weights
        for index, v in enumerate(velocities.unbind(0), start=self.tile):
            row, column = divmod(index, tiling.columns)
            rows, columns = tiling[index].box
            total[:, rows, columns] += v * down[row][:, None] * across[column]
        self.tile += len(velocities)

    def finish_step(self, pixels: Callable[["Tensor"], Pixels]) -> Strips | None:
        """Take the step whose tiles are all in: x <- x - (t - t_next) v.

        Returns:
            The clean-image estimate after it, if it is wanted.
        """
        x, v = _present(self.x), _present(self.v)
        t, t_next = self.times[self.step], self.times[self.step + 1]
        wanted = self.watch is not None and self.step + 1 in self.watch.previews
        preview = self._strips(pixels, x, v, t) if wanted else None
        x.sub_(v.mul_(t - t_next))
        v.zero_()
        self.step += 1
        self.tile = 0
        return preview

    def picture(self, pixels: Callable[["Tensor"], Pixels]) -> Strips:
        """What is wanted of the state."""
        return self._strips(pixels, _present(self.x), None, 0.0)

    def _strips(
        self, pixels: Callable[["Tensor"], Pixels], x: "Tensor", v: "Tensor | None", t: float
    ) -> Strips:
        rows, columns = self.box
        strips = []
        for top in range(rows.start, rows.stop, _STRIP):
            strip = slice(top, min(top + _STRIP, rows.stop))
            values = x[:, strip, columns]
            if v is not None:
                values = values - t * v[:, strip, columns]
            strips.append(pixels(values[None])[0])
        return strips


class TileRows:
    """The tiles of a batch, added to the squares of it.

    Args:
        pictures: Which pictures have how many of their next tiles in the batch.
        bucket: The rows of the batch; those beyond the squares' and tiles' repeat the last.
        velocity: The network.

    Attributes:
        pictures: As above.
    """

    def __init__(
        self, pictures: Sequence[tuple[PictureWork, int]], bucket: int, velocity: Velocity
    ) -> None:
        self.pictures, self._bucket, self._velocity = pictures, bucket, velocity
        self._made: Tensor | None = None
        self._squares = 0

    def velocity(
        self, x: "Tensor | None", times: Sequence[float], condition: "Tensor | None"
    ) -> "Tensor":
        """Compute the squares' velocities in one batch with the tiles'.

        Args:
            x: The squares' states [n, 3, S, S]; None if there are none, as of ``condition``.
            times: Their times.
            condition: Their conditions [n, K, D + 1].

        Returns:
            The squares' velocities [n, 3, S, S].
        """
        states = [] if x is None else [x]
        conditions = [] if condition is None else [condition]
        at, self._squares = list(times), len(times)
        for work, count in self.pictures:
            tiling, frame = work.part.tiling, _present(work.x)
            numbers = range(work.tile, work.tile + count)
            crops = torch.stack([frame[(slice(None), *tiling[i].box)] for i in numbers])
            own = _present(work.conditions)[work.tile : work.tile + count]
            states.append(crops)
            conditions.append(own)
            if work.ready_rows > 1:
                states.append(crops)
                conditions.append(torch.zeros_like(own))
            at += [work.times[work.step]] * (count * work.ready_rows)
        if missing := self._bucket - len(at):
            states.append(states[-1][-1:].expand(missing, -1, -1, -1))
            conditions.append(conditions[-1][-1:].expand(missing, -1, -1))
            at += at[-1:] * missing
        self._made = self._velocity(torch.cat(states), at, torch.cat(conditions))
        return self._made[: self._squares]

    def blend(self) -> None:
        """Blend the tiles' velocities into their pictures'."""
        made, begin = _present(self._made), self._squares
        for work, count in self.pictures:
            own = made[begin : begin + count]
            begin += count * work.ready_rows
            if work.ready_rows > 1:
                null = made[begin - count : begin]
                own = null + work.options.sampler.guidance * (own - null)
            work.blend(own)


def start_picture(
    runner: DecoderRunner, tokens: Tokens, layout: PictureLayout, part: TilingPart, seed: int
) -> "tuple[Tensor, Tensor]":
    """Prepare a picture's decode; called from any thread.

    Args:
        runner: What will compute it.
        tokens: The tokens of all tiles.
        layout: The whole picture.
        part: The tiles that are decoded.
        seed: The seed of the starting noise.

    Returns:
        The part's noise out of the whole picture's, float32 [3, H, W], and its tiles' conditions
        [T, K, D + 1], in the host's memory.
    """
    width, height = layout.tiling.frame
    x = noise([seed], (3, height, width))[0]
    tiling = part.tiling
    if tiling.frame != (width, height):
        bottom, right = part.top + tiling.height, part.left + tiling.width
        x = x[:, part.top : bottom, part.left : right].clone()
    if len(part.numbers) < tokens.tile_count:
        tokens = Tokens.join([tokens.tile(number) for number in part.numbers])
    return x, runner.condition(tokens)


def box_of(layout: PictureLayout, part: TilingPart, region: Region | None) -> tuple[slice, slice]:
    """The rows and columns of a part's frame that are wanted."""
    left, top, width, height = region or (0, 0, layout.width, layout.height)
    x, y = left - part.left, top - part.top
    return slice(y, y + height), slice(x, x + width)


def _present(tensor: "Tensor | None") -> "Tensor":
    assert tensor is not None
    return tensor
