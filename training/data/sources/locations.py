"""From what a user writes to where images come from."""

import itertools
from collections.abc import Callable, Sequence
from urllib.parse import unquote, urlsplit

from flowmo.training.data.sources.filesystem import Filesystem
from flowmo.training.data.sources.hugging_face import HuggingFaceImages, is_dataset
from flowmo.training.data.sources.index_cache import IndexCache
from flowmo.training.data.sources.local import find_local
from flowmo.training.data.sources.remote_listing import find_remote
from flowmo.training.data.sources.source import Source
from flowmo.training.data.sources.urls import scheme, shown
from flowmo.training.errors import DataError

_LOCAL = ""


def open_sources(
    paths: Sequence[str], *, cache: IndexCache, report: Callable[[str], None]
) -> list[Source]:
    """The sources of paths, URLs and data sets, in their order.

    Neighbours on the same filesystem are one source, so that a batch that is spread over hundreds
    of tars is still read at once.

    Args:
        paths: as :class:`flowmo.training.config.DataConfig` has them.
        cache: The cache of indexes of tars.
        report: Is notified of what takes long.

    Raises:
        DataError: one of them is nothing that images can be read from.
    """
    filesystems: dict[str, Filesystem] = {}

    def kind(text: str) -> str:
        if is_dataset(text):
            return text
        if scheme(text) in (None, "file"):
            return _LOCAL
        if "::" in text:
            raise DataError(f"{shown(text)}: chained URLs are not read; give the inner one alone")
        filesystem = Filesystem(text)
        return filesystems.setdefault(filesystem.key, filesystem).key

    sources: list[Source] = []
    for key, group in itertools.groupby(paths, kind):
        texts = list(group)
        if key == _LOCAL:
            sources.append(find_local(list(map(_path, texts)), cache=cache, report=report))
        elif key in filesystems:
            sources.append(find_remote(texts, filesystems[key], cache=cache, report=report))
        else:
            sources += [HuggingFaceImages(text) for text in texts]
    return sources


def _path(text: str) -> str:
    return text if scheme(text) is None else unquote(urlsplit(text).path)
