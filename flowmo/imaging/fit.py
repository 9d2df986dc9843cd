"""Any picture to what a model takes, by a stated rule.

``native`` leaves it as it is: tiles of the model's size cover it (:mod:`flowmo.model.tiling`). The
other rules make one square of it: ``crop`` cuts the largest centred one; ``pad`` keeps the whole
picture and fills the rest with white; ``stretch`` ignores the aspect ratio. Everything in the
project that changes a picture's size for a model, up or down, does so with :data:`RESAMPLING`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from flowmo.imaging.reading import (
    BACKGROUND,
    DEFAULT_MAX_PIXELS,
    DecodedImage,
    Pixels,
    read_image,
)

Fit = Literal["native", "crop", "pad", "stretch"]
DEFAULT_FIT: Fit = "native"
DEFAULT_SQUARE_FIT: Fit = "crop"
"""Of what needs squares, such as training and comparisons."""
RESAMPLING = Image.Resampling.LANCZOS

# A picture more than this many times too large is first averaged over whole pixels, which is fast;
# from three times on the result is near to what the filter alone would give (Pillow's words).
_FAST_REDUCING_GAP = 3.0

# (left, top, right, bottom) in pixels, right and bottom excluded.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitReport:
    """What was done to a picture.

    Attributes:
        fit: The rule.
        width: Pixels of the original.
        height: Pixels of the original.
        size: Side in pixels of the square that it became, or of the tiles that cover it.
        source: The part of the original that was used.
        target: Where in the result it lies (all of it, except for ``pad``).
    """

    fit: Fit
    width: int
    height: int
    size: int
    source: Box
    target: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedImage:
    """A picture as the model takes it, uint8 [H, W, 3], and how it came about.

    It is a square of the model's size, except for ``native``.
    """

    pixels: Pixels
    report: FitReport


def plan_fit(width: int, height: int, size: int, fit: Fit) -> FitReport:
    """Geometry of fitting ``width`` x ``height`` pixels to a model of squares of side ``size``.

    Centring rounds towards the top left; a padded picture keeps at least one pixel of each side.
    """
    source: Box = (0, 0, width, height)
    target: Box = (0, 0, size, size)
    if fit == "native":
        target = source
    elif fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        source = (left, top, left + side, top + side)
    elif fit == "pad":
        scale = size / max(width, height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (size - w) // 2, (size - h) // 2
        target = (left, top, left + w, top + h)
    return FitReport(fit=fit, width=width, height=height, size=size, source=source, target=target)


def fit_image(image: DecodedImage, size: int, fit: Fit = DEFAULT_SQUARE_FIT) -> FittedImage:
    """Resize a picture to the model's square, or leave it as it is.

    Args:
        image: The picture as read; it may have been decoded at a reduced scale.
        size: Side S of the square in pixels.
        fit: The rule.

    Returns:
        Pixels [S, S, 3], for ``native`` [H, W, 3], and the report, in pixels of the original.
    """
    report = plan_fit(image.width, image.height, size, fit)
    picture = image.picture
    if fit == "native":
        assert picture.size == (image.width, image.height), "decoded at a reduced scale"
        return FittedImage(pixels=image.pixels, report=report)
    scale_x, scale_y = picture.width / image.width, picture.height / image.height
    left, top, right, bottom = report.source
    box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
    x0, y0, x1, y1 = report.target
    inner = x1 - x0, y1 - y0
    if picture.size != inner or report.source != (0, 0, image.width, image.height):
        picture = picture.resize(inner, RESAMPLING, box=box)
    if inner != (size, size):
        canvas = Image.new("RGB", (size, size), BACKGROUND)
        canvas.paste(picture, (x0, y0))
        picture = canvas
    return FittedImage(pixels=np.asarray(picture), report=report)


def fit_back(square: Pixels, report: FitReport) -> Pixels:
    """A square that was made of a picture as a picture of its shape and size.

    Args:
        square: uint8 [S, S, 3].
        report: How it was made. What ``crop`` cut off does not come back: the square stays.

    Returns:
        uint8 [H, W, 3] of the picture's own size for ``pad`` and ``stretch``.
    """
    if report.fit not in ("pad", "stretch"):
        return square
    picture = Image.fromarray(np.ascontiguousarray(square))
    size = report.width, report.height
    return np.asarray(picture.resize(size, RESAMPLING, box=report.target))


def read_square(
    data: bytes, size: int, *, fit: Fit = DEFAULT_SQUARE_FIT, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels:
    """Read a file as the model's square: what a server makes of the same upload.

    Args:
        data: The whole image file.
        size: Side S of the square in pixels.
        fit: The rule, which makes a square.
        max_pixels: Most pixels accepted.

    Returns:
        uint8 [S, S, 3].

    Raises:
        ImageError: As :func:`flowmo.imaging.reading.read_image`.
    """
    assert fit != "native", "a picture as it is may be no square"
    return fit_image(read_image(data, max_pixels=max_pixels, side=size), size, fit).pixels


def shrink(image: DecodedImage, short_side: int) -> Pixels:
    """A whole picture whose shorter side is at most ``short_side`` pixels: uint8 [h, w, 3].

    Of a much larger picture pixels are averaged first, which is fast and nearly the same.
    """
    picture = image.picture
    ratio = short_side / min(image.width, image.height)
    size = round(image.width * ratio), round(image.height * ratio)
    if ratio < 1 and picture.size != size:
        picture = picture.resize(size, RESAMPLING, reducing_gap=_FAST_REDUCING_GAP)
    return np.asarray(picture)


def resize_square(square: Pixels, size: int) -> Pixels:
    """A square to another side: uint8 [s, s, 3] to [size, size, 3]."""
    if len(square) == size:
        return square
    picture = Image.fromarray(np.ascontiguousarray(square))
    return np.asarray(picture.resize((size, size), RESAMPLING))
