"""Files inside Qt's binary resource bundles (``.rcc``), the format of Qt's ``rcc --binary``.

A header names three tables. The tree has one fixed-size record a folder or file; names are UTF-16
behind a length and a hash; contents stand behind their length, perhaps compressed by zlib.
All integers are big-endian.
"""

import struct
import zlib
from collections.abc import Iterator

_MAGIC = b"qres"
_HEADER = struct.Struct(">4s4I")  # magic, version, offsets of tree, contents and names
_NODE = struct.Struct(">IHII")  # name, flags, then (files: locale and content; folders: children)
_RECORD_BYTES = {1: 14, 2: 22, 3: 22}  # by format version; the later ones end in a time stamp
_COMPRESSED_ZLIB, _FOLDER, _COMPRESSED_ZSTD = 1, 2, 4


class QtResourceError(ValueError):
    """Bytes that are no resource bundle, or one that cannot be read."""


def read_qt_resources(data: bytes) -> list[tuple[str, bytes]]:
    """Paths and contents of the files in a bundle, in its order.

    Files compressed by Zstandard are left out: Python has a reader for them from 3.14 on only.

    Raises:
        QtResourceError: not a bundle, of an unknown version, or cut short.
    """
    if data[:4] != _MAGIC:
        raise QtResourceError(f"not a Qt resource bundle: it begins with {data[:4]!r}")
    try:
        version = _HEADER.unpack_from(data)[1]
        if version not in _RECORD_BYTES:
            raise QtResourceError(f"resource bundle of version {version}, readable are 1 to 3")
        return list(_walk(data, 0, ""))
    except (struct.error, zlib.error, UnicodeDecodeError, RecursionError) as error:
        raise QtResourceError(f"damaged Qt resource bundle: {error}") from error


def _walk(data: bytes, index: int, folder: str) -> Iterator[tuple[str, bytes]]:
    _, version, tree, contents, names = _HEADER.unpack_from(data)
    name, flags, first, second = _NODE.unpack_from(data, tree + index * _RECORD_BYTES[version])
    path = folder + _name(data, names + name) if index else ""
    if flags & _FOLDER:
        for child in range(second, second + first):
            yield from _walk(data, child, f"{path}/" if index else "")
    elif not flags & _COMPRESSED_ZSTD:
        start = contents + second
        (length,) = struct.unpack_from(">I", data, start)
        content = data[start + 4 : start + 4 + length]
        # Before the zlib stream stands the uncompressed length.
        yield path, zlib.decompress(content[4:]) if flags & _COMPRESSED_ZLIB else content


def _name(data: bytes, start: int) -> str:
    (length,) = struct.unpack_from(">H", data, start)
    return data[start + 6 : start + 6 + 2 * length].decode("utf-16-be")
