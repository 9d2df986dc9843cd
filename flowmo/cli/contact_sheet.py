"""Pictures in rows with captions, as one PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowmo.imaging.reading import Pixels

_MARGIN = 12
_CAPTION = 28
_MIN_SIDE = 256
_PAPER = (255, 255, 255)
_INK = (32, 32, 32)


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture, uint8 [S, S, 3], and what stands below it."""

    pixels: "Pixels"
    caption: str


def contact_sheet(rows: Sequence[Sequence[Tile]]) -> bytes:
    """Draw rows of equally many pictures of one size as a PNG.

    Small pictures are enlarged by a whole factor without smoothing, so that what is seen is what
    was computed.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from flowmo.imaging.writing import encode_image

    side = len(rows[0][0].pixels)
    factor = -(-_MIN_SIDE // side)
    side *= factor
    across, down = side + _MARGIN, side + _CAPTION + _MARGIN
    sheet = Image.new("RGB", (_MARGIN + across * len(rows[0]), _MARGIN + down * len(rows)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            left, top = _MARGIN + across * column, _MARGIN + down * row
            picture = Image.fromarray(tile.pixels)
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
            draw.text((left, top + side + 5), tile.caption, fill=_INK, font=font)
    return encode_image(np.asarray(sheet), "png", best=True)
