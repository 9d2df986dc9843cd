"""Any picture to the model's square, by a stated rule.

``crop`` (default) cuts the largest centred square; ``pad`` keeps the whole picture and fills the
rest with white; ``stretch`` ignores the aspect ratio. All resize with Lanczos, up or down. Tiling
at native resolution is not here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from flowmo.imaging.reading import BACKGROUND, DecodedImage, Pixels

Fit = Literal["crop", "pad", "stretch"]
DEFAULT_FIT: Fit = "crop"

# (left, top, right, bottom) in pixels, right and bottom excluded.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitReport:
    """What was done to a picture.

    Attributes:
        fit: the rule.
        width: of the original in pixels.
        height: of the original in pixels.
        size: side of the square it became.
        source: the part of the original that was used.
        target: where in the square it lies (all of it, except for ``pad``).
    """

    fit: Fit
    width: int
    height: int
    size: int
    source: Box
    target: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedImage:
    """A square picture, uint8 [S, S, 3], and how it came about."""

    pixels: Pixels
    report: FitReport


def plan_fit(width: int, height: int, size: int, fit: Fit) -> FitReport:
    """Geometry of fitting ``width`` x ``height`` pixels into a square of side ``size``.

    Centring rounds towards the top left; a padded picture keeps at least one pixel of each side.
    """
    source: Box = (0, 0, width, height)
    target: Box = (0, 0, size, size)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        source = (left, top, left + side, top + side)
    elif fit == "pad":
        scale = size / max(width, height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (size - w) // 2, (size - h) // 2
        target = (left, top, left + w, top + h)
    return FitReport(fit=fit, width=width, height=height, size=size, source=source, target=target)


def fit_image(image: DecodedImage, size: int, fit: Fit = DEFAULT_FIT) -> FittedImage:
    """Resize a picture to the model's square.

    Args:
        image: as read; it may have been decoded at a reduced scale.
        size: S, side of the square in pixels.
        fit: the rule.

    Returns:
        Pixels [S, S, 3] and the report, in pixels of the original.
    """
    report = plan_fit(image.width, image.height, size, fit)
    h, w, _ = image.pixels.shape
    scale_x, scale_y = w / image.width, h / image.height
    left, top, right, bottom = report.source
    box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
    x0, y0, x1, y1 = report.target
    picture = Image.fromarray(image.pixels)
    if box != (0, 0, x1 - x0, y1 - y0) or picture.size != (x1 - x0, y1 - y0):
        picture = picture.resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS, box=box)
    if (x1 - x0, y1 - y0) != (size, size):
        canvas = Image.new("RGB", (size, size), BACKGROUND)
        canvas.paste(picture, (x0, y0))
        picture = canvas
    return FittedImage(pixels=np.asarray(picture), report=report)
