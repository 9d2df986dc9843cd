"""Images from strangers, read into plain RGB pixels.

What is accepted, and the rules for everything that is not simply RGB:

- formats: JPEG (also multi-picture phone JPEGs), PNG, WebP, AVIF, GIF, BMP; nothing else is even
  tried, so the parsers a stranger can reach are these six;
- size: ``width * height`` is checked from the header, before any pixel is decoded;
- orientation in EXIF is applied; all other metadata is dropped;
- transparency is composited on white;
- animations give their first frame, and the result says so;
- 16-bit greyscale is rescaled to 8 bits (not clipped); wider RGB loses its low byte;
- a colour profile other than sRGB (Display P3, Adobe RGB, CMYK) is converted to sRGB; a broken one
  is ignored.

    ImageError                    anything wrong with an uploaded image
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
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from flowmo.imaging.jpeg import count_scans

logger = logging.getLogger(__name__)

DEFAULT_MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP")
MEDIA_TYPES = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/avif": "AVIF",
    "image/gif": "GIF",
    "image/bmp": "BMP",
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp")
BACKGROUND = (255, 255, 255)
# Encoders write about ten; each costs a pass over the whole picture.
MAX_JPEG_SCANS = 64

# An MPO is a JPEG with further pictures (depth maps, second lens) behind the photograph.
_JPEGS = ("JPEG", "MPO")

# Decoding a JPEG at a half, quarter or eighth costs a fraction of the time and memory; keeping this
# many times the wanted side leaves the result of the following Lanczos resize the same to the eye.
_REDUCED_DECODE_MARGIN = 2

Pixels = NDArray[np.uint8]


class ImageError(ValueError):
    """Something is wrong with an uploaded image."""


class UnsupportedImageError(ImageError):
    """The bytes are no image of an accepted format."""


class CorruptImageError(ImageError):
    """The image is of an accepted format, but truncated, damaged or empty."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """Pixels of an upload and what they were made from.

    Attributes:
        pixels: uint8 [h, w, 3], sRGB; smaller than the upload when decoding was reduced.
        width: of the upload in pixels, after its orientation was applied.
        height: of the upload in pixels, after its orientation was applied.
        format: one of :data:`FORMATS`.
        animated: the upload had further frames, which were not read.
    """

    pixels: Pixels
    width: int
    height: int
    format: str
    animated: bool


def read_image(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, side: int | None = None
) -> DecodedImage:
    """Read an uploaded image.

    Args:
        data: the whole file.
        max_pixels: most pixels accepted.
        side: when given, pixels on the shorter side that are enough for the caller; a JPEG of at
            least four times as many is decoded at a reduced scale.

    Raises:
        UnsupportedImageError: not one of :data:`FORMATS`.
        CorruptImageError: truncated, damaged or empty.
        ImageTooLargeError: more than ``max_pixels``.
    """
    if not data:
        raise CorruptImageError("the image is empty: 0 bytes came")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
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
        width, height = image.size
        if width * height > max_pixels:
            raise ImageTooLargeError(
                f"the image is {width} x {height} = {width * height:,} pixels, at most "
                f"{max_pixels:,} are accepted; scale it down"
            )
        if image.format in _JPEGS and (scans := count_scans(data)) > MAX_JPEG_SCANS:
            raise CorruptImageError(
                f"the JPEG has {scans} scans, at most {MAX_JPEG_SCANS} are accepted; save it again "
                f"as an ordinary JPEG"
            )
        try:
            return _decode(image, side)
        except Exception as error:
            raise _corrupt(error) from error


def _decode(image: Image.Image, side: int | None) -> DecodedImage:
    is_multi_picture = image.format == "MPO"
    source = "JPEG" if is_multi_picture else str(image.format)
    animated = bool(getattr(image, "is_animated", False)) and not is_multi_picture
    original = image.size
    if side is not None:
        ratio = side * _REDUCED_DECODE_MARGIN / min(original)
        if ratio < 1:
            image.draft(None, (math.ceil(original[0] * ratio), math.ceil(original[1] * ratio)))
    image.load()
    turn = _turn(image)
    width, height = original[::-1] if turn in _SIDEWAYS else original
    upright = image if turn is None else image.transpose(turn)
    pixels = np.asarray(_to_srgb(_opaque(upright)))
    return DecodedImage(pixels=pixels, width=width, height=height, format=source, animated=animated)


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
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # A damaged EXIF block is no reason to refuse the photograph.
        logger.debug("unreadable EXIF block ignored", exc_info=True)
        return None


def _opaque(image: Image.Image) -> Image.Image:
    """8 bits a channel without palette or transparency: L, RGB or CMYK, profile kept."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        result = _eight_bits(image)
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        result = Image.new("RGB", image.size, BACKGROUND)
        result.paste(layer, mask=layer.getchannel("A"))
    else:
        result = image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")
    if profile:
        result.info["icc_profile"] = profile
    return result


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greyscale (Pillow modes ``I;16*``, and ``I`` in some readers) to L, rounded."""
    wide = np.asarray(image).astype(np.uint32).clip(0, 65535)
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
    return image.convert("RGB")


def _corrupt(error: Exception) -> CorruptImageError:
    # Pillow's own words name formats and counts, never content; other errors' words are internal.
    reason = str(error) if type(error) is OSError else type(error).__name__
    return CorruptImageError(f"the image cannot be decoded: {reason}; send the complete file")


_FOREIGN_MAGIC = (
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG or XML"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
)
_ACCEPTED_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM")


def _unidentified(data: bytes) -> ImageError:
    """Say what came, as far as the first bytes tell."""
    accepted = "JPEG, PNG, WebP, AVIF, GIF or BMP"
    if data.startswith(_ACCEPTED_MAGIC) or data[4:12] in {b"ftypavif", b"ftypavis"}:
        return CorruptImageError("the image's header is truncated or damaged; send the whole file")
    name = next((name for magic, name in _FOREIGN_MAGIC if data.startswith(magic)), None)
    if data[4:8] == b"ftyp" and data[8:12] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}:
        name = "HEIC"
    came = f"{name} is not accepted" if name else "the bytes are no image of a known format"
    return UnsupportedImageError(f"{came}; convert it to {accepted}")
