"""Where training images are, and how they become samples."""

from dataclasses import dataclass
from typing import Literal

from flowmo.training.config.checks import at_least, one_of, require, share

Crop = Literal["random", "centre"]
Cache = Literal["none", "memory"]

DEFAULT_INDEX_CACHE = "~/.cache/flowmo/indexes"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the images are and how they become training samples.

    Args:
        paths: folders (searched recursively), image files, uncompressed tar files (of images, or
            of such tars), glob patterns and ``{000..146}`` of these; each also as a URL that
            fsspec reads (``s3://``, ``gs://``, ``https://``); Hugging Face data sets as
            ``hf://owner/name?split=train`` or ``hf:/folder`` (:mod:`flowmo.training.data.sources`).
        crop: position of the square crop, ``random`` or ``centre``.
        min_crop_scale: the side of a random crop is uniform between this share of the image's
            shorter side and all of it. 1 is the plain "resize the shorter side, crop a square".
        horizontal_flip: mirror half of the samples (never with a ``centre`` crop).
        colour_jitter: largest relative change of contrast and saturation of a random crop, and,
            smaller, of brightness and colour balance; 0 changes nothing.
        repeat_by_area: a picture is in an epoch as many times as crops of the model's size cover
            it. It needs ``cache=memory``.
        cache: ``memory`` decodes every image once, at the start, and keeps it as uint8 with the
            shorter side at most ceil(image size / min_crop_scale).
        cache_limit_gib: refuse to start when the cache would need more (GiB).
        workers: decoding processes; 0 decodes in the training process. No effect on the data.
        max_corrupt: how many images may turn out unreadable before training stops.
        index_cache: folder where the indexes of tars are kept from one start to the next; empty
            keeps none.
        sample_paths: images for the sample grids, best ones that are never trained on; empty
            means the first images of ``paths``.

    Raises:
        ConfigError: a value is out of its range.
    """

    paths: tuple[str, ...] = ()
    crop: Crop = "random"
    min_crop_scale: float = 1.0
    horizontal_flip: bool = True
    colour_jitter: float = 0.0
    repeat_by_area: bool = False
    cache: Cache = "none"
    cache_limit_gib: float = 8.0
    workers: int = 4
    max_corrupt: int = 100
    index_cache: str = DEFAULT_INDEX_CACHE
    sample_paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("data.crop", self.crop, Crop)
        one_of("data.cache", self.cache, Cache)
        require(
            0.0 < self.min_crop_scale <= 1.0,
            f"data.min_crop_scale must lie in (0, 1], got {self.min_crop_scale!r}",
        )
        at_least(0, workers=self.workers, max_corrupt=self.max_corrupt)
        share(**{"data.colour_jitter": self.colour_jitter})
        require(
            not self.repeat_by_area or self.cache == "memory",
            "data.repeat_by_area needs data.cache=memory: pictures' sizes are known only then",
        )
        require(
            self.cache_limit_gib > 0,
            f"data.cache_limit_gib must be positive, got {self.cache_limit_gib!r}",
        )
