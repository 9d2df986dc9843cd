"""Photographs that no model is trained on, the same ones every time.

They are the sample photographs in ``flowmo/photographs``, whose sources and licences its
ATTRIBUTION.md names: public domain, CC0 or CC BY, from scikit-image's and scikit-learn's packages.
Their digests are checked whenever they are read, since figures measured on them compare only while
they stay the same.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowmo.training.errors import DataError

# Read as files, not imported: training does not depend on the package that holds them.
_FOLDER = Path(__file__).parents[2] / "photographs"

HELD_OUT_SHA256 = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
}


def held_out_photographs(folder: Path | None = None) -> dict[str, Image.Image]:
    """The photographs by name, RGB, whole, in alphabetical order.

    Args:
        folder: where they lie, if not with the installed package.

    Raises:
        DataError: one is missing or not the file that it should be.
    """
    photographs = {}
    for name, digest in HELD_OUT_SHA256.items():
        path = (folder or _FOLDER) / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"held-out photograph {path} cannot be read: {error}") from error
        if (found := hashlib.sha256(data).hexdigest()) != digest:
            raise DataError(
                f"held-out photograph {path} has SHA-256 {found}, not {digest}: figures measured "
                "on it would not compare with others; restore the file that the project ships"
            )
        photographs[name] = Image.open(io.BytesIO(data)).convert("RGB")
    return photographs


def centred_square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The largest centred square of an image, resized (Lanczos): uint8 [side, side, 3]."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    rgb = image.convert("RGB")
    return np.asarray(rgb.resize((side, side), Image.Resampling.LANCZOS, box=box))
