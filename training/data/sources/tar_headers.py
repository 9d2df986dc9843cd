"""Where the images of tars lie, tars in tars included.

``ILSVRC2012_img_train.tar`` is a tar of a thousand tars. Nothing is unpacked: a member of an
uncompressed tar is a range of the outer file, and so is a member of that member.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from flowmo.training.data.sources.extents import Members
from flowmo.training.data.sources.range_file import Blocks, Fetch, RangeFile
from flowmo.training.data.sources.suffixes import TAR_SUFFIX, is_compressed_tar, is_image, is_tar
from flowmo.training.errors import DataError

_Places = dict[str, tuple[int, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TarPart:
    """A tar: a whole file, or a member of another.

    Attributes:
        file: the outermost file.
        shown: its name in messages.
        folder: what the names of members begin with; a tar in a tar is as if it were unpacked to a
            folder of its name.
        start: its first byte in the file.
        size: its bytes.
    """

    file: str
    shown: str
    folder: str = ""
    start: int = 0
    size: int


@dataclass(frozen=True, slots=True)
class _Walked:
    images: _Places
    tars: list[TarPart]


def walk_tars(
    tars: Sequence[TarPart],
    *,
    fetch: Fetch,
    blocks: Blocks,
    each: Callable[[Callable[[TarPart], _Walked], Iterable[TarPart]], Iterator[_Walked]] = map,
) -> Iterator[tuple[str, Members]]:
    """Read all headers once.

    Args:
        tars: whole files.
        fetch: reads a range of one.
        blocks: how much a range reads.
        each: :func:`map`, or that of a pool of threads.

    Yields:
        A file and its images, as soon as it is known whole.

    Raises:
        DataError: a tar is damaged or compressed.
    """
    found: dict[str, _Places] = {tar.file: {} for tar in tars}
    open_parts = dict.fromkeys(found, 1)
    level = list(tars)
    while level:
        inner: list[TarPart] = []
        walk = each(lambda tar: _walk(tar, fetch, blocks), level)
        for tar, walked in zip(level, walk, strict=True):
            found[tar.file] |= walked.images
            open_parts[tar.file] += len(walked.tars) - 1
            inner += walked.tars
            if not open_parts[tar.file]:
                yield tar.file, Members.of_tar(found.pop(tar.file))
        level = inner


def _walk(tar: TarPart, fetch: Fetch, blocks: Blocks) -> _Walked:
    file = RangeFile(tar.file, tar.start, tar.size, fetch=fetch, blocks=blocks)
    images: _Places = {}
    tars: dict[str, TarPart] = {}
    shown = f"{tar.shown}:{tar.folder}" if tar.folder else tar.shown
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                # The archive would keep a kilobyte of every member.
                archive.members.clear()  # type: ignore[attr-defined]
                if not member.isreg() or member.issparse():
                    continue
                name = tar.folder + member.name.removeprefix("./")
                start = tar.start + member.offset_data
                # A name that occurs twice means its last member, as when extracting.
                if is_image(name):
                    images[name] = (start, member.size)
                elif is_tar(name):
                    tars[name] = TarPart(
                        file=tar.file,
                        shown=tar.shown,
                        folder=name[: -len(TAR_SUFFIX)] + "/",
                        start=start,
                        size=member.size,
                    )
                elif is_compressed_tar(name):
                    raise DataError(
                        f"{tar.shown}:{name} is a compressed tar, which has no random access: "
                        "unpack it, or leave it out of the tar"
                    )
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shown} cannot be read as an uncompressed tar: {error}") from error
    return _Walked(images, list(tars.values()))
