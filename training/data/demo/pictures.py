"""File contents to RGB pictures: transparency laid over a plain colour, drawings recognized.

A photograph has noise: its neighbouring pixels differ, and it uses many levels. Drawings, icons
and screenshots have areas of one exact value. The tests here are cheap and err on the side of
keeping: which files of a package are photographs is first of all said in ``sources``.
"""

from typing import Literal

import numpy as np
from PIL import Image

from flowmo.imaging.reading import ImageError, read_with_alpha
from flowmo.training.data.images import MAX_PIXELS

PictureKind = Literal["photograph", "cutout"]

_OPAQUE = 250  # alpha at which a pixel counts as the picture's own
_VISIBLE = 8
_CUTOUT_MARGIN = 0.06  # of the longer side, on each side
# Above these shares of equal neighbours a picture is taken for a drawing. Photographs may have
# white or black surroundings; in a cut-out the surroundings are transparent and do not count.
_MOST_EQUAL_NEIGHBOURS: dict[PictureKind, float] = {"photograph": 0.9, "cutout": 0.4}
_FEWEST_LEVELS = 40  # of grey, of 256
_LEVEL_SHARE = 1e-4  # of the pixels, for a level to count


class UnusablePictureError(ValueError):
    """The file is no picture, or no photograph; the message is a short reason, for counting."""


def open_picture(data: bytes, *, kind: PictureKind, generator: np.random.Generator) -> Image.Image:
    """Decode a file to an RGB picture.

    Args:
        data: the file's bytes.
        kind: a ``photograph`` keeps its frame; a ``cutout`` is trimmed to what is visible and set
            in the middle of a square with a narrow margin.
        generator: draws the colour behind transparent parts: grey in two of five pictures.

    Raises:
        UnusablePictureError: not decodable, entirely transparent, or a drawing.
    """
    try:
        picture = read_with_alpha(data, max_pixels=MAX_PIXELS)
    except ImageError as error:
        raise UnusablePictureError("unreadable") from error
    _check_photographic(picture, kind)
    return picture if picture.mode == "RGB" else _laid_over_colour(picture, kind, generator)


def _laid_over_colour(
    picture: Image.Image, kind: PictureKind, generator: np.random.Generator
) -> Image.Image:
    if kind == "cutout":
        visible = picture.getchannel("A").point([0] * _VISIBLE + [255] * (256 - _VISIBLE))
        picture = picture.crop(visible.getbbox())
        side = round(max(picture.size) * (1 + 2 * _CUTOUT_MARGIN))
        size = (side, side)
    else:
        size = picture.size
    if generator.random() < 0.4:
        colour = (int(generator.integers(90, 256)),) * 3
    else:
        red, green, blue = (int(level) for level in generator.integers(40, 236, 3))
        colour = (red, green, blue)
    plain = Image.new("RGBA", size, (*colour, 255))
    place = ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2)
    plain.alpha_composite(picture, place)
    return plain.convert("RGB")


def _check_photographic(picture: Image.Image, kind: PictureKind) -> None:
    pixels = np.asarray(picture)
    # Every n-th row is enough to know; whole rows, so that neighbours are true neighbours.
    pixels = pixels[:: max(1, len(pixels) // 256)]
    own = np.ones(pixels.shape[:2], dtype=np.bool_)
    if picture.mode == "RGBA":
        own = pixels[..., 3] >= _OPAQUE
        if not own.any():
            raise UnusablePictureError("transparent")
    pairs = own[:, 1:] & own[:, :-1]
    equal = (pixels[:, 1:, :3] == pixels[:, :-1, :3]).all(-1)
    luminance = np.asarray(picture.convert("RGB").convert("L"))[:: max(1, picture.height // 256)]
    levels = np.bincount(luminance[own], minlength=256)
    if np.count_nonzero(levels > _LEVEL_SHARE * own.sum()) < _FEWEST_LEVELS:
        raise UnusablePictureError("few levels")
    if equal[pairs].mean() > _MOST_EQUAL_NEIGHBOURS[kind]:
        raise UnusablePictureError("drawing")
