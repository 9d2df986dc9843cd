"""What callers hand in, as the bytes that travel.

Only httpx and numpy are needed here. A picture of Pillow's is read by :mod:`flowmo.imaging`, which
is imported when one comes.
"""

import errno
import os
import struct
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = Union[
    bytes, bytearray, memoryview, str, os.PathLike[str], NDArray[np.uint8], "Image.Image"
]
"""An image: a file's bytes, its path, an array uint8 [H, W, 3], or Pillow's."""

# Colour types of PNG by the number of channels: grey, grey and alpha, RGB, RGBA.
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_LEVEL = 4


class HasContainer(Protocol):
    """Something that knows its container: a container, image tokens, an answer of tokenize."""

    def to_bytes(self) -> bytes:
        """The container's bytes."""
        ...


TokenSource: TypeAlias = HasContainer | bytes | bytearray | memoryview | str | os.PathLike[str]
"""Tokens: what tokenize gave, a container, its bytes, or the path of a ``.flowmo`` file."""


def picture_bytes(picture: Picture) -> bytes:
    """The image file of a picture; what is no file becomes a PNG.

    Args:
        picture: A file's bytes, its path (a ``str`` is always a path), an array, or Pillow's image.

    Raises:
        OSError: The file cannot be read.
        TypeError: It is nothing of these.
        ValueError: The array or image cannot be sent; the message says how to convert it.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    if isinstance(picture, np.ndarray):
        return png(picture)
    pillow = sys.modules.get("PIL.Image")  # whoever has a picture of Pillow's has imported it
    if pillow is not None and isinstance(picture, pillow.Image):
        from flowmo.imaging.reading import from_picture

        return png(from_picture(picture).pixels)
    raise TypeError(
        f"a picture is a path, the bytes of an image file, an array uint8 [H, W, 3] or Pillow's "
        f"image; got {type(picture).__name__}"
    )


def check_files(items: Iterable[object]) -> None:
    """Check, before any work, that the paths among items lead to files.

    Args:
        items: Pictures or tokens, of which paths are checked.

    Raises:
        FileNotFoundError: A path leads to no file.
    """
    for item in items:
        if isinstance(item, str | os.PathLike) and not Path(item).is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", os.fspath(item))


def token_bytes(tokens: TokenSource) -> bytes:
    """The container of tokens.

    Args:
        tokens: What tokenize gave, a container, its bytes, or a ``.flowmo`` file's path (a ``str``
            is always a path).

    Raises:
        OSError: The file cannot be read.
        TypeError: It is nothing of these.
    """
    if isinstance(tokens, bytes | bytearray | memoryview):
        return bytes(tokens)
    if isinstance(tokens, str | os.PathLike):
        return Path(tokens).read_bytes()
    to_bytes = getattr(tokens, "to_bytes", None)
    # Whole numbers have such a method, too.
    if to_bytes is None or isinstance(tokens, int):
        raise TypeError(
            f"tokens are what tokenize gave, a container, its bytes or the path of a .flowmo file; "
            f"got {type(tokens).__name__}"
        )
    data: bytes = to_bytes()
    return data


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of pixels, which are kept exactly.

    Args:
        pixels: uint8 [H, W] or [H, W, C]: grey, grey and alpha, RGB, or RGB and alpha.

    Raises:
        ValueError: The array is no such picture.
    """
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"an array must be uint8 with levels from 0 to 255, got {pixels.dtype}; values from 0 "
            f"to 1 become that by (255 * array).round().astype('uint8')"
        )
    if planes.ndim != 3 or 0 in planes.shape or planes.shape[2] not in _PNG_COLOUR_TYPES:
        raise ValueError(
            f"an array must be one picture [H, W, 3] (or [H, W], [H, W, 4]), got "
            f"{list(pixels.shape)}; several go as a list to the calls that end in _many"
        )
    height, width, channels = planes.shape
    # Each row begins with its filter, here 1: a pixel is told by what it adds to its left one.
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = 1
    rows[:, 1 : 1 + channels] = planes[:, 0]
    steps = planes[:, 1:] - planes[:, :-1]  # modulo 256
    rows[:, 1 + channels :] = steps.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR_TYPES[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data)
        for kind, data in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(rows.tobytes(), _PNG_LEVEL)),
            (b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
