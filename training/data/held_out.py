"""Photographs that no model is trained on, the same ones every time.

They are the sample photographs of :mod:`flowmo.photographs`, whose sources and licences its
ATTRIBUTION.md names: public domain, CC0 or CC BY, from scikit-image's and scikit-learn's packages.
Their digests are checked whenever they are read, since figures measured on them compare only while
they stay the same.
"""

import hashlib
from pathlib import Path

from flowmo.imaging.fit import read_square
from flowmo.imaging.reading import Pixels
from flowmo.photographs import photograph_paths
from flowmo.training.errors import DataError

HELD_OUT_SHA256 = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
}


def held_out_photographs(folder: Path | None = None) -> dict[str, bytes]:
    """The photographs' files by name, in alphabetical order.

    Args:
        folder: Where they lie, if not with the installed package.

    Raises:
        DataError: A photograph is missing or not the file that it should be.
    """
    folder = folder or photograph_paths()[0].parent
    photographs = {}
    for name, digest in HELD_OUT_SHA256.items():
        path = folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"held-out photograph {path} cannot be read: {error}") from error
        if (found := hashlib.sha256(data).hexdigest()) != digest:
            raise DataError(
                f"held-out photograph {path} has SHA-256 {found}, not {digest}: figures measured "
                "on it would not compare with others; restore the file that the project ships"
            )
        photographs[name] = data
    return photographs


def held_out_squares(size: int) -> dict[str, Pixels]:
    """The photographs as squares, uint8 [size, size, 3], by name, in alphabetical order.

    Raises:
        DataError: A photograph is missing or not the file that it should be.
    """
    return {name: read_square(data, size) for name, data in held_out_photographs().items()}
