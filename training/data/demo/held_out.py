"""Pictures of whole packages that are kept for judging models."""

from pathlib import Path

import numpy as np
from PIL import Image

from flowmo.training.data.demo.collection import Collection
from flowmo.training.data.demo.packages import Package, read_files
from flowmo.training.data.demo.pictures import UnusablePictureError, open_picture
from flowmo.training.data.demo.sources import SourcePackage

_SHORT_SIDE = 512  # pixels; no model of the project serves larger pictures


def write_held_out(
    collection: Collection, source: SourcePackage, package: Package, folder: Path
) -> list[str]:
    """Write a package's photographs as PNG files, and keep what looks like them out of training.

    Args:
        collection: The pictures that are trained on.
        source: The package's selections.
        package: The package to read.
        folder: The folder to write to, made if need be.

    Returns:
        The files' names: the package and the picture's own name, a PNG each, the shorter side at
        most 512 pixels.
    """
    folder.mkdir(exist_ok=True)
    names = []
    files = read_files(package, lambda path: source.selection(path) is not None)
    for path, data in files.items():
        selection = source.selection(path)
        assert selection is not None
        try:
            # The colour behind transparent parts is the only thing drawn; here it is always one.
            generator = np.random.default_rng(0)
            picture = open_picture(data, kind=selection.kind, generator=generator)
        except UnusablePictureError:
            continue
        collection.hold_out(picture)
        ratio = _SHORT_SIDE / min(picture.size)
        if ratio < 1.0:
            size = (round(picture.width * ratio), round(picture.height * ratio))
            picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        name = f"{source.name}-{Path(path).stem}.png"
        picture.save(folder / name)
        names.append(name)
    return names
