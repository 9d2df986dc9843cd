"""Whole pictures at the size that training has a use for."""

import math

from PIL import Image

_MOST_SHRINK = 4
"""A crop of the whole shorter side is shrunk so much at most when training takes it."""


def shrunk_to_its_worth(picture: Image.Image, size: int, *, most_crops: int) -> Image.Image:
    """A picture with no more pixels than the crops have that it is to give.

    Its shorter side is at most four times ``size``, and its area at most a quarter of the area of
    ``most_crops`` crops (of which four would overlap at any place); but the shorter side is not
    made smaller than ``size``. Training repeats a picture by its area, so that this is also how
    often one of its kind is seen.

    Args:
        picture: The picture, RGB.
        size: Side of the crops that training takes, in pixels.
        most_crops: The limit of crops of the picture's selection.

    Returns:
        The picture, resized (Lanczos) or as it is.
    """
    short = min(picture.size)
    area = most_crops / 4 * size**2
    ratio = min(
        _MOST_SHRINK * size / short,
        max(math.sqrt(area / (picture.width * picture.height)), size / short),
    )
    if ratio >= 1.0:
        return picture
    width, height = (max(size, round(edge * ratio)) for edge in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
