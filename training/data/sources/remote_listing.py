"""Which images there are at URLs."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from flowmo.training.data.sources.braces import expand_braces
from flowmo.training.data.sources.extents import Extents, Members
from flowmo.training.data.sources.filesystem import THREADS, Filesystem
from flowmo.training.data.sources.index_cache import IndexCache
from flowmo.training.data.sources.range_file import Blocks
from flowmo.training.data.sources.remote import RemoteFiles
from flowmo.training.data.sources.retrying import retried
from flowmo.training.data.sources.suffixes import is_compressed_tar, is_image, is_tar, unusable
from flowmo.training.data.sources.tar_headers import TarPart
from flowmo.training.data.sources.tar_index import index_tars
from flowmo.training.data.sources.urls import scheme
from flowmo.training.errors import DataError

# Where images are 100 kB, every block of a tar holds headers; where a tar holds tars, few do.
_BLOCKS = Blocks(first=2**16, largest=2**23)

# What distinguishes one content from another, by the names that filesystems have for it. fsspec's
# own ukey and checksum would do, but HTTP's ukey ignores the content, and the default checksum
# counts times of access.
_VERSION_FIELDS = (
    "ETag", "etag", "md5Hash", "generation", "checksum", "Content-MD5", "Digest", "content_hash",
    "blob_id", "sha", "Last-Modified", "LastModified", "last_modified", "updated", "mtime",
    "modified", "created",
)  # fmt: skip


_Found = tuple[str, Members | None]
"""A folder and its images; or one tar or image."""


def find_remote(
    urls: Sequence[str],
    filesystem: Filesystem,
    *,
    cache: IndexCache,
    report: Callable[[str], None],
) -> RemoteFiles:
    """The images at URLs of one filesystem.

    Args:
        urls: folders (searched recursively), images, uncompressed tars; braces and ``*`` stand for
            several.
        filesystem: The filesystem of all of them.
        cache: The cache of indexes of tars.
        report: Is notified of what takes long.

    Raises:
        DataError: there is nothing, or no usable thing, at a URL; or the storage fails.
    """
    found = [item for url in urls for item in _expand(url, filesystem)]
    paths = list(dict.fromkeys(path for path, files in found if not files and _is_tar(path)))
    with ThreadPoolExecutor(THREADS) as pool:
        infos = list(pool.map(filesystem.info, paths))
        tars = {
            _tar(path, info, filesystem): _version(info)
            for path, info in zip(paths, infos, strict=True)
        }
        indexed = index_tars(
            tars,
            fetch=lambda path, begin, end: filesystem.read([path], [(begin, end)])[0],
            blocks=_BLOCKS,
            cache=cache,
            report=report,
            each=pool.map,
        )
    parts = [(path, files or indexed.get(path)) for path, files in found]
    return RemoteFiles(Extents.join(parts), filesystem)


def _expand(url: str, filesystem: Filesystem) -> list[_Found]:
    found: list[_Found] = []
    for choice in expand_braces(url):
        path = filesystem.path(choice)
        if "*" in path or "[" in path:
            found += _matches(choice, path, filesystem)
        elif _is_tar(path) or is_image(_path_part(path)):
            found.append((path, None))
        elif is_compressed_tar(_path_part(path)):
            raise DataError(unusable(filesystem.url(path)))
        else:
            found.append(_folder(path, filesystem))
    return found


def _matches(url: str, pattern: str, filesystem: Filesystem) -> list[_Found]:
    paths = sorted(retried(lambda: filesystem.open().glob(pattern), what=filesystem.url(url)))
    if not paths:
        raise DataError(f"nothing matches {filesystem.url(url)}")
    for path in paths:
        if not (is_tar(path) or is_image(path)):
            raise DataError(unusable(filesystem.url(path)))
    return [(path, None) for path in paths]


def _folder(path: str, filesystem: Filesystem) -> _Found:
    folder = path.rstrip("/") + "/"
    paths: list[str] = retried(lambda: filesystem.open().find(folder), what=filesystem.url(path))
    files = sorted(file.removeprefix(folder) for file in paths if is_image(file))
    if not files:
        tars = sum(map(is_tar, paths))
        hint = f"; for its {tars} tars, give {filesystem.url(folder)}*.tar" if tars else ""
        raise DataError(f"no images in the folder {filesystem.url(path)}{hint}")
    return folder.rstrip("/"), Members.of_files(files)


def _tar(path: str, info: dict[str, Any], filesystem: Filesystem) -> TarPart:
    size = info.get("size")
    if not isinstance(size, int):
        raise DataError(
            f"{filesystem.url(path)}: the storage does not say its size, so that it cannot be "
            "read by ranges; copy it, or serve it as a file"
        )
    return TarPart(file=path, shown=filesystem.url(path), size=size)


def _version(info: dict[str, Any]) -> str | None:
    fields = [f"{key}={info[key]}" for key in _VERSION_FIELDS if info.get(key) is not None]
    return f"size={info.get('size')} {' '.join(fields)}" if fields else None


def _is_tar(path: str) -> bool:
    return is_tar(_path_part(path))


def _path_part(path: str) -> str:
    """Without the query that a signed URL ends with."""
    return urlsplit(path).path if scheme(path) else path
