"""Indexes of tars: known ones from the cache, the others by reading their headers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flowmo.training.data.sources.extents import Members
from flowmo.training.data.sources.index_cache import IndexCache
from flowmo.training.data.sources.range_file import Blocks, Fetch
from flowmo.training.data.sources.tar_headers import TarPart, walk_tars


def index_tars(
    tars: Mapping[TarPart, str | None],
    *,
    fetch: Fetch,
    blocks: Blocks,
    cache: IndexCache,
    report: Callable[[str], None],
    each: Callable[..., Iterator[Any]] = map,
) -> dict[str, Members]:
    """The images of whole tars, by file.

    Args:
        tars: and what distinguishes their content from another (:meth:`IndexCache.load`).
        fetch: reads a range of a tar.
        blocks: how much a range reads.
        cache: The cache of earlier indexes.
        report: Is notified before headers are read, which takes a while, and when they are.
        each: :func:`map`, or that of a pool of threads.

    Raises:
        DataError: a tar is damaged or compressed, or the storage fails.
    """
    by_file = {tar.file: tar for tar in tars}
    known: dict[str, Members] = {}
    for tar, version in tars.items():
        if (members := cache.load(tar.shown, version)) is not None:
            known[tar.file] = members
    missing = [tar for file, tar in by_file.items() if file not in known]
    if missing:
        report(f"reading the headers of {_count(missing)}{_kept(cache)}")
    for file, members in walk_tars(missing, fetch=fetch, blocks=blocks, each=each):
        known[file] = members
        # At once, so that a walk that is stopped goes on where it was.
        cache.save(by_file[file].shown, tars[by_file[file]], members)
    return known


def _count(tars: Iterable[TarPart]) -> str:
    sizes = [tar.size for tar in tars]
    return f"{len(sizes)} tar{'s' * (len(sizes) > 1)} ({sum(sizes) / 1e9:.1f} GB)"


def _kept(cache: IndexCache) -> str:
    return "" if cache.folder is None else f", once; the index is kept in {cache.folder}"
