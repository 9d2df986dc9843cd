"""All pictures' crops together: held-out photographs and near-duplicates are kept out here."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from PIL import Image

from flowmo.imaging.fit import plan_fit
from flowmo.training.data.demo.crops import Crop, SeenHashes, difference_hash
from flowmo.training.data.demo.cutting import CutPicture
from flowmo.training.data.demo.manifest import PictureRecord

# Differing bits, of 64, up to which two whole pictures are taken for the same one at another size
# or with other compression. Wide where a picture too many costs more than one too few.
_SAME_PICTURE, _HELD_OUT = 3, 8


class Collection:
    """Pictures and crops so far, in order.

    Args:
        held_out: photographs that must not be trained on. Neither a picture that looks like one
            of them (or like its centred square) nor a crop that does is kept.
    """

    def __init__(self, held_out: Iterable[Image.Image]) -> None:
        self.pictures: list[PictureRecord] = []
        self.crops: list[tuple[int, Crop]] = []  # index of the picture, crop
        self.dropped_pictures: Counter[str] = Counter()
        self.dropped_crops: Counter[str] = Counter()
        self._seen_pictures = SeenHashes()
        self._seen_crops = SeenHashes()
        self._held_out = SeenHashes()
        for photograph in held_out:
            self.hold_out(photograph)

    def hold_out(self, photograph: Image.Image) -> None:
        """Keep out what looks like this photograph from now on."""
        for image in (photograph, _centred_square(photograph)):
            self._held_out.add_if_new(difference_hash(image), 0)

    def add(self, picture: CutPicture) -> None:
        """Take what is new of a picture's crops."""
        if picture.rejected is not None:
            self.dropped_pictures[picture.rejected] += 1
            return
        if self._held_out.has_near(picture.hash, _HELD_OUT):
            self.dropped_pictures["held out"] += 1
            return
        if not self._seen_pictures.add_if_new(picture.hash, _SAME_PICTURE):
            self.dropped_pictures["near-duplicate"] += 1
            return
        self.dropped_crops.update(picture.dropped)
        taken = [crop for crop in picture.crops if self._is_new(crop)]
        if not taken:
            self.dropped_pictures["no crop left"] += 1
            return
        self.crops += [(len(self.pictures), crop) for crop in taken]
        self.pictures.append(
            PictureRecord(
                package=picture.package,
                path=picture.path,
                width=picture.width,
                height=picture.height,
                crops=len(taken),
            )
        )

    def shuffled(self, seed: int) -> list[tuple[int, Crop]]:
        """The crops in random order, so that each part alone is a fair sample of them."""
        order = np.random.default_rng(seed).permutation(len(self.crops))
        return [self.crops[i] for i in order]

    def _is_new(self, crop: Crop) -> bool:
        if self._held_out.has_near(crop.hash, crop.radius):
            self.dropped_crops["held out"] += 1
            return False
        if not self._seen_crops.add_if_new(crop.hash, crop.radius):
            self.dropped_crops["near-duplicate"] += 1
            return False
        return True


def _centred_square(image: Image.Image) -> Image.Image:
    return image.crop(plan_fit(*image.size, size=1, fit="crop").source)
