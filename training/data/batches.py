"""Training batches whose content is a pure function of (seed, position).

A position counts samples from the start of the run: position // n is the epoch and position % n
the place in that epoch's permutation. Worker count, cache and restarts do not enter.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from flowmo.cores import usable_cores
from flowmo.imaging.reading import ImageError, Pixels
from flowmo.training.config import DataConfig
from flowmo.training.data.augmentation import repeats
from flowmo.training.data.images import (
    augment,
    channels_first,
    decode_image,
    read_training_square,
)
from flowmo.training.data.index import ImageIndex
from flowmo.training.data.loader import BatchLoader
from flowmo.training.errors import DataError

_ORDER_STREAM, _AUGMENT_STREAM = 0, 1
_GIB = 2**30
_READ_AT_ONCE = 128


class Sample(NamedTuple):
    """One crop, uint8 [3, S, S], and the indices of unreadable images it stands in for."""

    image: Tensor
    unreadable: tuple[int, ...]


class Batch(NamedTuple):
    """Crops, uint8 [B, 3, S, S], and the indices of images that could not be read."""

    images: Tensor
    unreadable: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A position as people count: whole epochs, and samples into the current one."""

    epoch: int
    offset: int


class CropDataset(Dataset[Sample]):
    """Crops by position.

    Args:
        index: the images.
        size: side of the crops in pixels.
        config: how to crop, and how many unreadable images to bear.
        seed: The seed of order and crops.
        decoded: every image of the index after :func:`decode_image` (None for unreadable ones),
            or None to decode when asked.
    """

    def __init__(
        self,
        index: ImageIndex,
        *,
        size: int,
        config: DataConfig,
        seed: int,
        decoded: list[Pixels | None] | None = None,
    ) -> None:
        self._index = index
        self._size = size
        self._config = config
        self._seed = seed
        self._decoded = decoded
        # Places of an epoch to pictures; with repeats there are more places.
        self._pictures = np.arange(len(index))
        if config.repeat_by_area:
            if decoded is None:
                raise DataError("data.repeat_by_area needs decoded images; got none")
            counts = [
                1 if image is None else repeats(image.shape[0], image.shape[1], size)
                for image in decoded
            ]
            self._pictures = np.repeat(self._pictures, counts)
        self._order_epoch = -1
        self._order: np.ndarray = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._pictures)

    def place(self, position: int) -> Place:
        """Epoch and offset of a position."""
        return Place(*divmod(position, len(self)))

    def __getitem__(self, position: int) -> Sample:
        """The crop at ``position`` (any number of epochs in).

        An unreadable image is replaced by the next one of the epoch's order.

        Raises:
            DataError: more unreadable images in a row than ``max_corrupt``.
        """
        return self._sample(self.place(position), self._load)

    def __getitems__(self, positions: Sequence[int]) -> list[Sample]:
        """The crops at several positions, whose bytes are read at the same time.

        torch's loader prefers this to :meth:`__getitem__`.

        Raises:
            DataError: more unreadable images in a row than ``max_corrupt``, or failing storage.
        """
        if self._decoded is not None:
            return [self[position] for position in positions]
        places = [self.place(position) for position in positions]
        wanted = list(dict.fromkeys(self._index_at(place.epoch, place.offset) for place in places))
        read = dict(zip(wanted, self._index.read_many(wanted), strict=True))

        def load(i: int) -> Pixels | None:  # a stand-in of an unreadable image is not among them
            return self._decode(read[i]) if i in read else self._load(i)

        return [self._sample(place, load) for place in places]

    def close(self) -> None:
        """Close what reads have opened in this process; it reopens when needed."""
        self._index.close()

    def _sample(self, place: Place, load: Callable[[int], Pixels | None]) -> Sample:
        unreadable: list[int] = []
        while len(unreadable) <= min(self._config.max_corrupt, len(self) - 1):
            offset = (place.offset + len(unreadable)) % len(self)
            i = self._index_at(place.epoch, offset)
            image = load(i)
            if image is not None:
                # What distinguishes a sample from the others of its epoch.
                which = self._place_at(place.epoch, offset)
                entropy = [self._seed, place.epoch, which, _AUGMENT_STREAM]
                crop = augment(image, self._size, self._config, np.random.default_rng(entropy))
                return Sample(torch.from_numpy(crop), tuple(unreadable))
            unreadable.append(i)
        raise corrupt_error(self._index, unreadable, self._config)

    def _index_at(self, epoch: int, offset: int) -> int:
        return int(self._pictures[self._place_at(epoch, offset)])

    def _place_at(self, epoch: int, offset: int) -> int:
        if epoch != self._order_epoch:
            generator = np.random.default_rng([self._seed, epoch, 0, _ORDER_STREAM])
            self._order, self._order_epoch = generator.permutation(len(self)), epoch
        return int(self._order[offset])

    def _load(self, i: int) -> Pixels | None:
        if self._decoded is not None:
            return self._decoded[i]
        return self._decode(self._index.read_many([i])[0])

    def _decode(self, data: bytes | None) -> Pixels | None:
        return or_none(data, lambda data: decode_image(data, self._size, self._config))


def or_none(data: bytes | None, read: Callable[[bytes], Pixels]) -> Pixels | None:
    """Read an image; None if that fails, or if there are no bytes."""
    try:
        return None if data is None else read(data)
    except ImageError:
        return None


def decode_all(
    index: ImageIndex,
    *,
    size: int,
    config: DataConfig,
    progress: Callable[[int, int], None] | None = None,
) -> list[Pixels | None]:
    """Decode every image into memory.

    Args:
        index: the images.
        size: side of the crops in pixels.
        config: bounds the decoded size (``min_crop_scale``) and the memory.
        progress: Is notified of (images done, images in all).

    Raises:
        DataError: the images need more than ``cache_limit_gib``, or the storage fails.
    """

    def read(data: bytes | None) -> Pixels | None:
        return or_none(data, lambda data: decode_image(data, size, config))

    limit = int(config.cache_limit_gib * _GIB)
    decoded: list[Pixels | None] = []
    used = 0
    with ThreadPoolExecutor(usable_cores()) as pool:  # Pillow decodes without the GIL
        images = (
            image
            for first in range(0, len(index), _READ_AT_ONCE)
            for image in pool.map(
                read,
                index.read_many(range(first, min(first + _READ_AT_ONCE, len(index)))),
            )
        )
        for image in images:
            decoded.append(image)
            used += 0 if image is None else image.nbytes
            if used > limit:
                pool.shutdown(cancel_futures=True)
                raise DataError(
                    f"the decoded images exceed data.cache_limit_gib = {config.cache_limit_gib:g} "
                    f"after {len(decoded)} of {len(index)}; raise it or use data.cache=none"
                )
            if progress is not None:
                progress(len(decoded), len(index))
    return decoded


def fixed_images(index: ImageIndex, *, size: int, count: int) -> Tensor:
    """Centred squares of the first ``count`` readable images, uint8 [n, 3, size, size].

    Raises:
        DataError: none is readable.
    """
    crops: list[Tensor] = []
    for i in range(len(index)):
        if len(crops) == count:
            break
        data = index.read_many([i])[0]
        if (square := or_none(data, lambda data: read_training_square(data, size))) is not None:
            crops.append(torch.from_numpy(channels_first(square)))
    if not crops:
        raise DataError(f"none of the {len(index)} sample images can be read")
    return torch.stack(crops)


def corrupt_error(index: ImageIndex, unreadable: list[int], config: DataConfig) -> DataError:
    """The error of too many unreadable images."""
    names = ", ".join(index.name(i) for i in sorted(unreadable)[:5])
    return DataError(
        f"{len(unreadable)} unreadable images, more than data.max_corrupt = {config.max_corrupt} "
        f"allows (or all there are); among them {names}"
    )


class PositionBatches(Sampler[list[int]]):
    """Consecutive positions, ``batch_size`` at a time, from ``start`` until ``stop``.

    With a ``period`` they are counted modulo it, so that the samples repeat. Of each batch there is
    ``part``, (i, n): the i-th of n equal pieces.
    """

    def __init__(
        self,
        *,
        start: int,
        stop: int,
        batch_size: int,
        period: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._range = range(start, stop, batch_size)
        self._share = batch_size // part[1]
        self._offset = part[0] * self._share
        self._period = period

    def __iter__(self) -> Iterator[list[int]]:
        for first in self._range:
            places = range(first + self._offset, first + self._offset + self._share)
            yield list(places) if self._period is None else [p % self._period for p in places]

    def __len__(self) -> int:
        return len(self._range)


def _collate(samples: list[Sample]) -> Batch:
    return Batch(
        images=torch.stack([sample.image for sample in samples]),
        unreadable=tuple(i for sample in samples for i in sample.unreadable),
    )


def _quiet_worker(_: int) -> None:
    # ^C and a service manager's SIGTERM reach the whole process group. The trainer then finishes
    # its step and saves, for which it needs its workers; they end when their loader does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def batches(
    dataset: CropDataset,
    *,
    start: int,
    steps: int,
    batch_size: int,
    workers: int,
    pin: bool,
    period: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> BatchLoader:
    """The batches of ``steps`` steps from position ``start``.

    Args:
        dataset: crops by position.
        start: position of the first sample.
        steps: how many batches.
        batch_size: samples of each, over all processes.
        workers: decoding processes, at most one a CPU; 0 decodes in this one.
        pin: put batches in page-locked memory, for a GPU.
        period: positions after which the samples repeat; None for never.
        part: (i, n), the i-th of n equal pieces of each batch.

    Returns:
        A loader of :class:`Batch` (torch's type parameter is that of the samples).
    """
    positions = PositionBatches(
        start=start,
        stop=start + steps * batch_size,
        batch_size=batch_size,
        period=period,
        part=part,
    )
    workers = min(workers, usable_cores())
    return BatchLoader(
        dataset,
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        worker_init_fn=_quiet_worker if workers else None,
        # Otherwise the loader draws its workers' seed from the global generator.
        generator=torch.Generator(),
    )
