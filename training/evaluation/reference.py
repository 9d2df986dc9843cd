"""Other pictures to compare with, however many: they pass by once and leave sums.

A reference is cut into chunks of some 32,000 pictures. A chunk's file holds the sums of all its
pictures' features, and the features themselves of the few that precision and recall need, so that
1.28 million pictures take 1.4 GB of disk, 34 MB of memory for the sums, and any number of
processes.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from flowmo.imaging.tensors import as_levels
from flowmo.training.data.pictures import PictureList
from flowmo.training.evaluation.moments import Moments, add_to
from flowmo.training.evaluation.networks import Networks
from flowmo.training.evaluation.protocol import MANIFOLD_PICTURES
from flowmo.training.evaluation.ranks import Ranks
from flowmo.training.evaluation.reading import read_ahead
from flowmo.training.evaluation.store import ShardResult, Store

_CHUNK = 32_768
_BATCHES_READ = 4

REFERENCE = "reference"


def chunk_size(batch: int) -> int:
    """Pictures a chunk: whole batches, so that its sums depend on the batch alone."""
    return batch * max(1, _CHUNK // batch)


def chunk_count(count: int, batch: int) -> int:
    """The number of chunks of ``count`` pictures."""
    return -(-count // chunk_size(batch))


def manifold_numbers(count: int) -> frozenset[int]:
    """Those of ``count`` pictures that precision and recall are measured against."""
    chosen = np.linspace(0, count - 1, min(count, MANIFOLD_PICTURES)).round().astype(int)
    return frozenset(chosen.tolist())


def pass_by(
    store: Store,
    pictures: PictureList,
    networks: Networks,
    *,
    summed: Iterable[str],
    kept: Iterable[str],
    batch: int,
    workers: int,
    ranks: Ranks,
    report: Callable[[str], None],
) -> None:
    """Write this process's chunks, but for those that are there.

    Args:
        store: The folder of the evaluation.
        pictures: The reference.
        networks: What gives features.
        summed: Features by name whose sums are written.
        kept: Features by name that are written for :func:`manifold_numbers`.
        batch: Pictures at a time.
        workers: Threads that read.
        ranks: This process's share.
        report: Is notified of each chunk.
    """
    count, size = len(pictures), chunk_size(batch)
    chosen = manifold_numbers(count)
    summed, kept = tuple(summed), tuple(kept)
    for chunk in ranks.share(chunk_count(count, batch)):
        if store.path(REFERENCE, chunk).exists():
            continue
        begin = time.perf_counter()
        numbers = range(chunk * size, min((chunk + 1) * size, count))
        several = batch * _BATCHES_READ
        parts = [numbers[first : first + several] for first in range(0, len(numbers), several)]
        moments: dict[str, Moments] = {}
        features: dict[str, list[Tensor]] = {name: [] for name in kept}
        unreadable: list[str] = []
        with closing(read_ahead(pictures, parts, workers=workers)) as squares_of:
            for part, squares in zip(parts, squares_of, strict=True):
                for first in range(0, len(part), batch):
                    cut = slice(first, first + batch)
                    each = list(zip(part[cut], squares[cut], strict=True))
                    read = [(number, square) for number, square in each if square is not None]
                    unreadable += [pictures.name(n) for n, square in each if square is None]
                    if not read:
                        continue
                    found = networks.features(
                        as_levels([square for _, square in read]), {*summed, *kept}
                    )
                    for name in summed:
                        if name in found:
                            add_to(moments, name, Moments.of(found[name]))
                    places = [place for place, (n, _) in enumerate(read) if n in chosen]
                    for name in kept:
                        if name in found:
                            features[name].append(found[name][places])
        result = ShardResult(
            rows=[],
            features={name: torch.cat(each) for name, each in features.items() if each},
            moments=moments,
            unreadable=unreadable,
        )
        store.write(REFERENCE, chunk, result)
        report(
            f"reference, chunk {chunk + 1} of {chunk_count(count, batch)}: "
            f"{len(numbers):,} pictures ({time.perf_counter() - begin:.0f} s)"
        )


def read_reference(store: Store, count: int, batch: int) -> ShardResult:
    """All chunks as one: sums of all pictures, features of some."""
    parts = [store.read(REFERENCE, chunk) for chunk in range(chunk_count(count, batch))]
    moments: dict[str, Moments] = {}
    for part in parts:
        for name, each in part.moments.items():
            add_to(moments, name, each)
    names = sorted({name for part in parts for name in part.features})
    return ShardResult(
        rows=[],
        features={n: torch.cat([p.features[n] for p in parts if n in p.features]) for n in names},
        moments=moments,
        unreadable=[name for part in parts for name in part.unreadable],
    )
