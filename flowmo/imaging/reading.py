"""Images from strangers, read into plain RGB pixels.

What is accepted, and the rules for everything that is not simply RGB:

- formats: those of :mod:`flowmo.imaging.formats`; nothing else is even tried, so the parsers that a
  stranger can reach are these;
- size: ``width * height`` is checked from the header, before any pixel is decoded;
- orientation in EXIF is applied; all other metadata is dropped;
- transparency is composited on white;
- animations and multi-page files give their first frame, and the result says so;
- 16-bit greyscale is rescaled to 8 bits (not clipped); wider RGB loses its low byte;
- a colour profile other than sRGB (Display P3, Adobe RGB, CMYK) is converted to sRGB; a broken one
  is ignored.

    ImageError                    anything wrong with an image
     ├── UnsupportedImageError    a format that is not on the list
     ├── CorruptImageError        truncated, damaged or empty
     └── ImageTooLargeError       more pixels than the limit
"""

import io
import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError

from flowmo.imaging.formats import ACCEPTED_FORMATS, INPUT_FORMATS
from flowmo.imaging.jpeg import count_scans

logger = logging.getLogger(__name__)

DEFAULT_MAX_PIXELS = 50_000_000
BACKGROUND = (255, 255, 255)
# Encoders write about ten; each costs a pass over the whole picture.
MAX_JPEG_SCANS = 64

_PILLOW_FORMATS = tuple(format.pillow for format in INPUT_FORMATS)
# An MPO is a JPEG with further pictures (depth maps, second lens) behind the photograph.
_JPEGS = ("JPEG", "MPO")
# Whole numbers of 32 bits, fractions, CIE Lab: their values have no range that is known here.
_MODES_WITHOUT_RANGE = {"F", "I", "LAB"}

# Decoding a JPEG at a half, quarter or eighth costs a fraction of the time and memory; keeping this
# many times the wanted side leaves the result of the following Lanczos resize the same to the eye.
DEFAULT_MARGIN = 2.0

Pixels = NDArray[np.uint8]


class ImageError(ValueError):
    """Something is wrong with an image."""


class UnsupportedImageError(ImageError):
    """The bytes are no image of an accepted format."""


class CorruptImageError(ImageError):
    """The image is of an accepted format, but truncated, damaged or empty."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """A picture as RGB, and what it was made from.

    Attributes:
        picture: Pillow's image of mode RGB, in sRGB; smaller than the original when decoding was
            reduced. It may be the caller's own: do not change it.
        width: Pixels of the original, after its orientation was applied.
        height: Pixels of the original, after its orientation was applied.
        format: Pillow's name of the original's format; empty for what was no file.
        animated: Whether the original has further frames or pages, which were not read.
    """

    picture: Image.Image
    width: int
    height: int
    format: str
    animated: bool

    @property
    def pixels(self) -> Pixels:
        """The picture as uint8 [h, w, 3]."""
        return np.asarray(self.picture)


def read_image(
    data: bytes,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    side: int | None = None,
    margin: float = DEFAULT_MARGIN,
) -> DecodedImage:
    """Read the bytes of an image file.

    Args:
        data: The whole file.
        max_pixels: Most pixels accepted.
        side: When given, pixels on the shorter side that the caller will resize to; a large JPEG is
            decoded at a half, quarter or eighth of its scale.
        margin: Times ``side`` that such a JPEG keeps at least. With 2, one of at least four times
            ``side`` is reduced; with 1, which is faster and less exact, one of at least twice.

    Raises:
        UnsupportedImageError: The file is of none of the accepted formats.
        CorruptImageError: The file is truncated, damaged or empty.
        ImageTooLargeError: The image has more than ``max_pixels``.
    """
    if not data:
        raise CorruptImageError("the image is empty: 0 bytes came")
    try:
        image = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(
            f"the image has far more pixels than the {max_pixels:,} accepted; scale it down"
        ) from None
    except Exception as error:
        # Pillow's parsers raise whatever their arithmetic runs into on hostile headers.
        raise _corrupt(error) from error
    with image:
        _check_size(*image.size, max_pixels)
        if image.format in _JPEGS and (scans := count_scans(data)) > MAX_JPEG_SCANS:
            raise CorruptImageError(
                f"the JPEG has {scans} scans, at most {MAX_JPEG_SCANS} are accepted; save it again "
                f"as an ordinary JPEG"
            )
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # A tile is decoded whole, and may be far larger than the image that it is said to hold.
            _check_size(*_tile_size(image), max_pixels)
        original = image.size
        try:
            if side is not None:
                ratio = side * margin / min(original)
                if ratio < 1:
                    reduced = math.ceil(original[0] * ratio), math.ceil(original[1] * ratio)
                    image.draft(None, reduced)
            return _upright_rgb(image, original)
        except ImageError:
            raise
        except Exception as error:
            raise _corrupt(error) from error


def from_picture(picture: Image.Image) -> DecodedImage:
    """The same rules for an image that Pillow holds already.

    Args:
        picture: An image of any mode; it is not changed.

    Raises:
        UnsupportedImageError: Its mode has no range of values that is known here.
        CorruptImageError: It is a file that was opened but not read, and cannot be decoded.
    """
    try:
        return _upright_rgb(picture, picture.size)
    except ImageError:
        raise
    except Exception as error:
        raise _corrupt(error) from error


def read_with_alpha(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Read an image whose transparency the caller lays over something else than white.

    Returns:
        An image of mode RGBA if the file has transparency, else RGB; upright, in sRGB.

    Raises:
        ImageError: As :func:`read_image`.
    """
    colours = read_image(data, max_pixels=max_pixels)
    with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
        image.load()
        if not image.has_transparency_data or image.mode.startswith("I"):
            return colours.picture
        turn = _turn(image)
        layer = image.convert("RGBA")
        alpha = layer.getchannel("A")
        result = _to_srgb(_with_profile_of(image, layer.convert("RGB")))
        result.putalpha(alpha)
        return result if turn is None else result.transpose(turn)


def _upright_rgb(image: Image.Image, original: tuple[int, int]) -> DecodedImage:
    is_multi_picture = image.format == "MPO"
    source = "JPEG" if is_multi_picture else image.format or ""
    animated = bool(getattr(image, "is_animated", False)) and not is_multi_picture
    image.load()
    turn = _turn(image)
    width, height = original[::-1] if turn in _SIDEWAYS else original
    upright = image if turn is None else image.transpose(turn)
    picture = _to_srgb(_opaque(upright))
    return DecodedImage(
        picture=picture, width=width, height=height, format=source, animated=animated
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image is {width} x {height} = {width * height:,} pixels, at most "
            f"{max_pixels:,} are accepted; scale it down"
        )


def _tile_size(image: TiffImagePlugin.TiffImageFile) -> tuple[int, int]:
    tags = image.tag_v2
    width, height = tags.get(TiffImagePlugin.TILEWIDTH), tags.get(TiffImagePlugin.TILELENGTH)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
_SIDEWAYS = {_Turn.TRANSPOSE, _Turn.ROTATE_270, _Turn.TRANSVERSE, _Turn.ROTATE_90}


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the photograph upright, from its EXIF orientation."""
    if image.format == "TIFF":
        return None  # Pillow turns these itself when it loads them
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # A damaged EXIF block is no reason to refuse the photograph.
        logger.debug("unreadable EXIF block ignored", exc_info=True)
        return None


def _opaque(image: Image.Image) -> Image.Image:
    """8 bits a channel without palette or transparency: L, RGB or CMYK, profile kept."""
    if image.mode in _MODES_WITHOUT_RANGE:
        raise UnsupportedImageError(
            f"the image has values of Pillow's mode {image.mode}, whose range is not known; "
            f"convert it to 8 or 16 bits a channel"
        )
    if image.mode.startswith("I;16"):
        result = _eight_bits(image)
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        result = Image.new("RGB", image.size, BACKGROUND)
        result.paste(layer, mask=layer.getchannel("A"))
    else:
        result = image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")
    return _with_profile_of(image, result)


def _with_profile_of(image: Image.Image, result: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile and result is not image:
        result.info["icc_profile"] = profile
    return result


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greyscale (Pillow's modes ``I;16*``) to L, rounded."""
    wide = np.asarray(image).astype(np.uint32)
    grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[wide == transparent] = BACKGROUND[0]
    return Image.fromarray(grey)


def _to_srgb(image: Image.Image) -> Image.Image:
    data: Any = image.info.get("icc_profile")
    if data:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            if "sRGB" in ImageCms.getProfileDescription(profile) and image.mode == "RGB":
                return image
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, profile, target, outputMode="RGB")
            assert converted is not None, "only in-place conversion returns nothing"
            return converted
        except Exception:
            logger.debug("unusable colour profile ignored", exc_info=True)
    return image if image.mode == "RGB" else image.convert("RGB")


def _corrupt(error: Exception) -> CorruptImageError:
    # Pillow's own words name formats and counts, never content; other errors' words are internal.
    reason = str(error) if type(error) is OSError else type(error).__name__
    return CorruptImageError(f"the image cannot be decoded: {reason}; send the complete file")


_FOREIGN_MAGIC = (
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG or XML"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
)
_ACCEPTED_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM")
_TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def _unidentified(data: bytes) -> ImageError:
    """Say what came, as far as the first bytes tell."""
    if data.startswith(_ACCEPTED_MAGIC) or data[4:12] in {b"ftypavif", b"ftypavis"}:
        return CorruptImageError("the image's header is truncated or damaged; send the whole file")
    if data.startswith(_TIFF_MAGIC):
        return CorruptImageError(
            "the TIFF is damaged, or its values are of a kind that is not read; send the whole "
            "file, or save it with 8 bits a channel"
        )
    name = next((name for magic, name in _FOREIGN_MAGIC if data.startswith(magic)), None)
    if data[4:8] == b"ftyp" and data[8:12] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}:
        name = "HEIC"
    came = f"{name} is not accepted" if name else "the bytes are no image of a known format"
    return UnsupportedImageError(f"{came}; convert it to {ACCEPTED_FORMATS}")
