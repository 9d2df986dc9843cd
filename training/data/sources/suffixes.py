"""What a file is, by the end of its name."""

import re
from pathlib import PurePosixPath

from flowmo.imaging.formats import SUFFIXES

IMAGE_SUFFIXES = frozenset(SUFFIXES)
TAR_SUFFIX = ".tar"
_COMPRESSED_TAR = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)


def suffix(name: str) -> str:
    """The last suffix in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def is_image(name: str) -> bool:
    """Whether the name is an image's."""
    return suffix(name) in IMAGE_SUFFIXES


def is_tar(name: str) -> bool:
    """Whether the name is an uncompressed tar's."""
    return suffix(name) == TAR_SUFFIX


def is_compressed_tar(name: str) -> bool:
    """Whether the name is that of a tar without random access."""
    return _COMPRESSED_TAR.search(name) is not None


def unusable(name: str) -> str:
    """The message for a file that is neither an image nor a tar."""
    return (
        f"{name} is not a folder, an image ({', '.join(sorted(IMAGE_SUFFIXES))}) or an "
        f"uncompressed {TAR_SUFFIX} (a compressed archive has no random access: unpack it)"
    )
