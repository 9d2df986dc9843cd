"""Pictures of an evaluation, read by threads while the device computes.

Decoding and resizing release the interpreter's lock, so threads use as many cores as there are.
"""

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from flowmo.cores import usable_cores
from flowmo.imaging.reading import ImageError, Pixels
from flowmo.training.data.pictures import PictureList


def default_workers() -> int:
    """A thread for each core that this process may use, and at most 16."""
    return min(16, usable_cores())


def read_ahead(
    pictures: PictureList, parts: Sequence[range], *, workers: int
) -> Generator[list[Pixels | None]]:
    """The squares of parts of a list, part by part, with the next one being read meanwhile.

    Args:
        pictures: The list.
        parts: The numbers of the pictures of each part.
        workers: How many threads read, at least 1. It changes no result.

    Yields:
        A part's squares in the order of its numbers, uint8 [S, S, 3] each; None where a picture
        does not decode.

    Raises:
        DataError: The storage fails.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        pending: list[list[Future[Pixels | None]]] = []
        try:
            for place in range(len(parts)):
                pending += [
                    [pool.submit(_square, pictures, number) for number in part]
                    for part in parts[place + len(pending) : place + 2]
                ]
                yield [read.result() for read in pending.pop(0)]
        finally:
            for read in (read for part in pending for read in part):
                read.cancel()


def _square(pictures: PictureList, number: int) -> Pixels | None:
    try:
        return pictures.square(number)
    except (ImageError, OSError):
        return None
