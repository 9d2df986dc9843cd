"""One picture to its crops: a pure function of the file, its name and the settings."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from PIL import Image

from flowmo.training.data.demo.crops import (
    Box,
    Crop,
    SeenHashes,
    candidate_boxes,
    cut,
    detail,
    difference_hash,
    encode_crop,
    most_crops,
)
from flowmo.training.data.demo.manifest import Form
from flowmo.training.data.demo.pictures import UnusablePictureError, open_picture
from flowmo.training.data.demo.sources import Selection
from flowmo.training.data.demo.whole import shrunk_to_its_worth

_TRIES = 3  # boxes looked at for each crop that a picture may give


@dataclass(frozen=True, kw_only=True, slots=True)
class CutTask:
    """A file to cut, and how.

    Args:
        package: Debian package of the file.
        path: in the package.
        data: the file's bytes.
        selection: that the file belongs to.
        size: side of the crops, pixels.
        form: Whether to cut crops, or to keep the picture whole.
        quality: The quality of the WebP files, 0 ... 100.
        seed: The seed of all random choices, with the package and the path.
    """

    package: str
    path: str
    data: bytes
    selection: Selection
    size: int
    form: Form
    quality: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CutPicture:
    """What a picture gave.

    ``rejected`` is the reason if the picture itself was of no use; ``dropped`` counts crops that
    were not kept, by reason. ``hash`` is the whole picture's difference hash.
    """

    package: str
    path: str
    width: int = 0
    height: int = 0
    hash: int = 0
    rejected: str | None = None
    crops: tuple[Crop, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


def cut_picture(task: CutTask) -> CutPicture:
    """Decode a picture and cut it into crops that differ and show something."""
    name = hashlib.sha256(f"{task.package}/{task.path}".encode()).digest()
    generator = np.random.default_rng([task.seed, int.from_bytes(name[:8])])
    kind = task.selection.kind
    try:
        picture = open_picture(task.data, kind=kind, generator=generator)
    except UnusablePictureError as error:
        return CutPicture(package=task.package, path=task.path, rejected=str(error))
    if task.form == "pictures":
        return _kept_whole(task, picture)
    limit = most_crops(*picture.size, task.size, limit=task.selection.most_crops)
    boxes = candidate_boxes(*picture.size, task.size, kind=kind, generator=generator)
    crops: list[Crop] = []
    dropped: Counter[str] = Counter()
    seen = SeenHashes()
    tried = False
    for box in islice(boxes, _TRIES * limit):
        tried = True
        if len(crops) == limit:
            break
        image = cut(picture, box, task.size)
        amount = detail(image)
        if amount is None:
            dropped["flat"] += 1
            continue
        crop = encode_crop(image, box, amount_of_detail=amount, quality=task.quality)
        if seen.add_if_new(crop.hash, crop.radius):
            crops.append(crop)
        else:
            dropped["near-duplicate"] += 1
    return CutPicture(
        package=task.package,
        path=task.path,
        width=picture.width,
        height=picture.height,
        hash=difference_hash(picture),
        rejected=None if tried else "too small",
        crops=tuple(crops),
        dropped=dict(dropped),
    )


def _kept_whole(task: CutTask, picture: Image.Image) -> CutPicture:
    """The whole picture as the only crop, no larger than what it is worth."""
    small = shrunk_to_its_worth(picture, task.size, most_crops=task.selection.most_crops)
    rejected = "too small" if min(small.size) < task.size else None
    # Judged at the size of a crop, since large pictures are soft at their own.
    amount = detail(small.resize((task.size, task.size), Image.Resampling.BOX))
    crops: tuple[Crop, ...] = ()
    if amount is not None and rejected is None:
        box = Box(0, 0, 0)
        crops = (encode_crop(small, box, amount_of_detail=amount, quality=task.quality),)
    return CutPicture(
        package=task.package,
        path=task.path,
        width=picture.width,
        height=picture.height,
        hash=difference_hash(picture),
        rejected=rejected,
        crops=crops,
        dropped={} if crops or rejected else {"flat": 1},
    )
