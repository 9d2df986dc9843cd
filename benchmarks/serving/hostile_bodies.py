"""Bodies of bounded size that are made to keep a server busy, for :mod:`.hostile`."""

import base64
import io
import os

import numpy as np
from PIL import Image

MEBI = 2**20
BODY_BYTES = 32 * MEBI - 1024


def nested_json() -> bytes:
    """As many empty lists as a body may hold."""
    return b'{"x":[' + b",".join([b"[]"] * (BODY_BYTES // 3)) + b"]}"


def base64_json() -> bytes:
    """A body that is one string; no picture, but what an honest one looks like to the parser."""
    return b'{"image":"%b"}' % base64.b64encode(os.urandom(BODY_BYTES // 4 * 3 - 64))


def escaped_json() -> bytes:
    """A string of escapes."""
    return b'{"image":"%b"}' % (b"\\u0041" * (BODY_BYTES // 6 - 16))


def progressive_jpeg(side: int = 7000, scans: int = 64) -> bytes:
    """A picture of 49 megapixels that is gone over ``scans`` times."""
    tile = np.random.default_rng(0).integers(0, 255, (500, 500, 3), np.uint8)
    picture = Image.fromarray(np.tile(tile, (side // 500, side // 500, 1)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", progressive=True, quality=1)
    data = buffer.getvalue()
    last = data[data.rfind(b"\xff\xda") : -2]
    room = (BODY_BYTES - len(data)) // len(last)
    return data[:-2] + last * min(scans - data.count(b"\xff\xda"), room) + b"\xff\xd9"


def segmented_jpeg() -> bytes:
    """A small picture behind eight million empty comments."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    data = buffer.getvalue()
    return data[:2] + b"\xff\xfe\x00\x02" * (BODY_BYTES // 4 - 1000) + data[2:]
