"""The one table of the image formats that are read.

Suffixes that a folder is searched for, media types of uploads, the decoders that are tried and what
error messages and documents name all come from here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFormat:
    """A format that pictures are read from.

    Attributes:
        pillow: Pillow's name of it.
        label: The name for people.
        media_type: The media type of an upload.
        suffixes: Ends of file names, in lower case, with their dot.
    """

    pillow: str
    label: str
    media_type: str
    suffixes: tuple[str, ...]


INPUT_FORMATS = (
    InputFormat(
        pillow="JPEG", label="JPEG", media_type="image/jpeg", suffixes=(".jpg", ".jpeg", ".jfif")
    ),
    InputFormat(pillow="PNG", label="PNG", media_type="image/png", suffixes=(".png",)),
    InputFormat(pillow="WEBP", label="WebP", media_type="image/webp", suffixes=(".webp",)),
    InputFormat(pillow="AVIF", label="AVIF", media_type="image/avif", suffixes=(".avif",)),
    InputFormat(pillow="GIF", label="GIF", media_type="image/gif", suffixes=(".gif",)),
    InputFormat(pillow="BMP", label="BMP", media_type="image/bmp", suffixes=(".bmp",)),
    InputFormat(pillow="TIFF", label="TIFF", media_type="image/tiff", suffixes=(".tif", ".tiff")),
)
MEDIA_TYPES = tuple(format.media_type for format in INPUT_FORMATS)
SUFFIXES = tuple(suffix for format in INPUT_FORMATS for suffix in format.suffixes)
_LABELS = [format.label for format in INPUT_FORMATS]
ACCEPTED_FORMATS = f"{', '.join(_LABELS[:-1])} or {_LABELS[-1]}"
"""The formats in words, for messages: "JPEG, PNG, … or TIFF"."""
