"""ADM's statistics of a set of pictures of any size, by any number of processes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from flowmo.training.data.pictures import PictureList
from flowmo.training.evaluation.adm import AdmStatistics, check_inception, write_statistics
from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.extractors import SPATIAL
from flowmo.training.evaluation.networks import Networks
from flowmo.training.evaluation.protocol import INCEPTION, VERSION, Protocol
from flowmo.training.evaluation.ranks import Ranks
from flowmo.training.evaluation.reading import default_workers, read_ahead
from flowmo.training.evaluation.reference import REFERENCE, chunk_count, pass_by, read_reference
from flowmo.training.evaluation.run import wait_for
from flowmo.training.evaluation.store import Store


def make_statistics(
    images: PictureList,
    networks: Networks,
    out: Path,
    *,
    work: Path,
    pictures: int,
    batch: int,
    ranks: Ranks,
    protocol: Protocol,
    on_progress: Callable[[str], None] = lambda _: None,
) -> int | None:
    """Write a file of ADM's, and go on where a stopped call was.

    Args:
        images: All of them count for mean and covariance.
        networks: What gives InceptionV3's features.
        out: The ``.npz`` file.
        work: The folder of what is done so far.
        pictures: How many of the images, evenly spaced, the file holds; they are kept in memory.
        batch: Images at a time.
        ranks: This process's share; rank 0 writes the file.
        protocol: How the images were read, for the folder's settings.
        on_progress: Is notified of each chunk.

    Returns:
        The number of images that decoded; None in other ranks than 0.

    Raises:
        EvaluationError: There is no InceptionV3, too few images decode, or the folder is of other
            images, weights or settings.
    """
    store = Store(work)
    check_inception(networks)
    store.open(
        {
            "protocol": f"statistics, {protocol.name} {VERSION}",
            "pictures": images.describe(),
            "networks": networks.weights,
            "batch": batch,
        },
        {},
    )
    pass_by(
        store,
        images,
        networks,
        summed=(INCEPTION, SPATIAL),
        kept=(),
        batch=batch,
        workers=default_workers(),
        ranks=ranks,
        report=on_progress,
    )
    if ranks.rank:
        return None
    chunks = range(chunk_count(len(images), batch))
    wait_for([store.path(REFERENCE, chunk) for chunk in chunks], on_progress)
    found = read_reference(store, len(images), batch)
    count = found.moments[INCEPTION].count if found.moments else 0
    if count < 2:
        raise EvaluationError(f"statistics need at least two images, and {count} decode")
    for name in found.unreadable:
        on_progress(f"does not decode and was left out: {name}")
    chosen = np.linspace(0, len(images) - 1, min(pictures, len(images))).round().astype(int)
    parts = [range(number, number + 1) for number in chosen.tolist()]
    squares = [
        square
        for part in read_ahead(images, parts, workers=default_workers())
        for square in part
        if square is not None
    ]
    write_statistics(
        out,
        AdmStatistics(
            of={name: sums.statistics() for name, sums in found.moments.items()},
            pictures=np.stack(squares) if squares else None,
        ),
    )
    return count
