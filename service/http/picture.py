"""Pictures that the service has made."""

from dataclasses import dataclass

from flowmo.imaging.fit import Fit, fit_back, plan_fit
from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.layout import NATIVE, PictureLayout
from flowmo.service.engine.calls import Region
from flowmo.service.errors import FieldProblem, InvalidFieldsError


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as an image file.

    Attributes:
        data: The bytes of the file.
        sampler: The time grid and guidance that the picture was decoded with.
    """

    data: bytes
    sampler: SamplerConfig


def shaped(pixels: Pixels, layout: PictureLayout, region: Region | None) -> Pixels:
    """What a client gets of what a decoder made: the picture's own size and shape, or its region.

    Args:
        pixels: uint8: the square of one tile, or all that was decoded of several.
        layout: The picture and its tiles.
        region: The part that is wanted; of several tiles the decoder has cut it out.
    """
    if layout.tiles > 1:
        return pixels
    if layout.fit != NATIVE:
        fit: Fit = layout.fit  # type: ignore[assignment]
        pixels = fit_back(pixels, plan_fit(layout.width, layout.height, layout.tile_size, fit))
    width, height = layout.output
    x, y, w, h = region or (0, 0, width, height)
    return pixels[y : y + h, x : x + w]


def check_region(layout: PictureLayout, region: Region | None) -> None:
    """Refuse a region that is not inside the picture.

    Raises:
        InvalidFieldsError: It is not.
    """
    if region is None:
        return
    x, y, w, h = region
    width, height = layout.output
    if not (w and h and x + w <= width and y + h <= height):
        message = (
            f"must lie inside the picture of {width} x {height} pixels and not be empty, got "
            f"{x},{y},{w},{h} (x,y,width,height)"
        )
        raise InvalidFieldsError([FieldProblem(field="region", message=message)])
