"""The bytes of the ``.flowmo`` container, header by header (docs/container.md).

Version 1 holds one square of the model's size, version 2 a picture of any size. Both begin with the
same 14 bytes and end with the CRC-32 (zlib's) of all bytes before it; little-endian::

    offset  size  field
         0     8  magic, 89 46 4C 4D 0D 0A 1A 0A
         8     2  version, 1 or 2
        10     2  D, bits a token
        12     2  G, bits an id; divides D

    version 1                              version 2
        14     2  reserved, 0                  14     1  fit: native, crop, pad, stretch
        16     4  K, tokens                    15     1  reserved, 0
        20     4  width of what the tokens     16     4  K, tokens a tile
                  decode to, in pixels         20     4  W, width of the picture, upright
        24     4  height                       24     4  H, height
        28     4  n, bytes of the payload      28     4  S, side of a tile
        32    16  fingerprint of the model     32     4  overlap in pixels
        48     n  payload (model.tokens)       36     4  T, tiles
      48+n     4  CRC-32                       40     4  n, bytes of one tile's payload
                                               44     4  reserved, 0
                                               48    16  fingerprint of the model
                                               64  T*n   payloads, tile after tile
                                           64+T*n     4  CRC-32

The tiles of version 2 are those of :class:`flowmo.model.tiling.Tiling`, row by row, and tile i's
payload begins at byte 64 + i n: whoever shows a region needs the header and some of them.
"""

import re
import struct
from dataclasses import dataclass
from typing import Self

from flowmo.model.errors import (
    ConfigError,
    ContainerCorruptedError,
    ContainerTruncatedError,
    ContainerVersionError,
    NotAContainerError,
)
from flowmo.model.layout import FITS, PictureLayout
from flowmo.model.tokens import MAX_GROUP_BITS, payload_bytes

# As PNG's: a byte that no text has, a name, and the line ends and end-of-file mark that transfers
# in text mode change. The name is "FLM".
MAGIC = b"\x89FLM\r\n\x1a\n"
VERSIONS = (1, 2)
# Far above any model, and low enough that a hostile header's arithmetic stays small.
MAX_CODE_LENGTH = 2**20

CRC = struct.Struct("<I")
_VERSION = struct.Struct("<H")
_START = len(MAGIC) + _VERSION.size
_FIELDS = {1: struct.Struct("<HHHIIII16s"), 2: struct.Struct("<HHBBIIIIIIII16s")}
_HEADER_SIZES = {version: _START + fields.size for version, fields in _FIELDS.items()}
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerHeader:
    """What stands before the payloads of a container.

    Attributes:
        code_length: K, the tokens of a tile.
        token_bits: D.
        group_bits: G.
        layout: The picture and its tiles.
        fingerprint: The model that made the tokens, 32 lower-case hex digits.
        version: The version of the format: 1 for one square of the model's size, else 2.
    """

    code_length: int
    token_bits: int
    group_bits: int
    layout: PictureLayout
    fingerprint: str
    version: int

    @property
    def size(self) -> int:
        """The length of the header in bytes."""
        return _HEADER_SIZES[self.version]

    @property
    def tile_bytes(self) -> int:
        """The length of one tile's payload in bytes."""
        return payload_bytes(self.code_length, self.token_bits)

    @property
    def total(self) -> int:
        """The length of the whole container in bytes."""
        return self.size + self.layout.tiles * self.tile_bytes + CRC.size

    def to_bytes(self) -> bytes:
        """The header's bytes."""
        sizes = (self.token_bits, self.group_bits)
        layout, digest = self.layout, bytes.fromhex(self.fingerprint)
        width, height = layout.width, layout.height
        rest: tuple[int | bytes, ...]
        if self.version == 1:
            rest = (*sizes, 0, self.code_length, width, height, self.tile_bytes, digest)
        else:
            grid = (width, height, layout.tile_size, layout.overlap, layout.tiles)
            fit = FITS.index(layout.fit)
            rest = (*sizes, fit, 0, self.code_length, *grid, self.tile_bytes, 0, digest)
        return MAGIC + _VERSION.pack(self.version) + _FIELDS[self.version].pack(*rest)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read the header of a container. Nothing is allocated on its word.

        Args:
            data: At least the container's first 64 bytes.

        Raises:
            NotAContainerError: The bytes do not begin as a container does.
            ContainerVersionError: The format has a version that this release does not know.
            ContainerTruncatedError: There are fewer bytes than a header with its checksum has.
            ContainerCorruptedError: The fields do not go together.
        """
        _check_magic(data)
        version = _read_version(data)
        if len(data) < (least := _HEADER_SIZES[version] + CRC.size):
            raise truncated(len(data), f"at least {least}")
        values = _FIELDS[version].unpack_from(data, _START)
        digest = values[-1].hex()
        if version == 1:
            token_bits, group_bits, reserved, code_length, width, height, length = values[:-1]
            # Of a square of the model's size, which is all that version 1 was written for.
            fit, tile, overlap, tiles = 0, max(width, height), 0, 1
        else:
            (token_bits, group_bits, fit, first, code_length, width, height) = values[:7]
            tile, overlap, tiles, length, second = values[7:-1]
            reserved = first or second
        problem = size_problem(code_length, token_bits, group_bits)
        if problem is None and reserved:
            problem = f"a reserved field is {reserved}, not 0"
        if problem is None and length != (expected := payload_bytes(code_length, token_bits)):
            problem = (
                f"a payload of {length} bytes, where {code_length} tokens of {token_bits} bits "
                f"take {expected}"
            )
        if problem is None and fit >= len(FITS):
            problem = f"the fit {fit} (0 to {len(FITS) - 1} are possible)"
        if problem is not None:
            raise _damaged(problem)
        try:
            layout = PictureLayout(
                width=width, height=height, tile_size=tile, overlap=overlap, fit=FITS[fit]
            )
        except ConfigError as error:
            raise _damaged(str(error)) from error
        header = cls(
            code_length=code_length,
            token_bits=token_bits,
            group_bits=group_bits,
            layout=layout,
            fingerprint=digest,
            version=version,
        )
        if tiles != layout.tiles:
            raise _damaged(
                f"{tiles} tiles, where {width} x {height} pixels in tiles of {tile} that overlap "
                f"by {overlap} take {layout.tiles}"
            )
        if layout.overlap != overlap:
            raise _damaged(f"an overlap of {overlap} pixels, where there is one tile")
        if version == 2 and layout.is_plain:
            raise _damaged("one square of the model's size, which is written as version 1")
        return header


def claimed_size(data: bytes, begin: int = 0) -> int:
    """The bytes that the container at a place says it has, unchecked: where the next one begins.

    Args:
        data: Containers one after the other.
        begin: Where one of them begins.
    """

    def number(offset: int) -> int:
        return int.from_bytes(data[begin + offset : begin + offset + 4], "little")

    if data[begin + len(MAGIC) : begin + _START] == _VERSION.pack(2):
        return _HEADER_SIZES[2] + number(36) * number(40) + CRC.size
    return _HEADER_SIZES[1] + number(28) + CRC.size


def is_fingerprint(value: str) -> bool:
    """Whether a text is 32 lower-case hex digits."""
    return _FINGERPRINT.fullmatch(value) is not None


def size_problem(code_length: int, token_bits: int, group_bits: int) -> str | None:
    """What is impossible in (K, D, G), or None."""
    if not 1 <= code_length <= MAX_CODE_LENGTH:
        return f"{code_length} tokens (1 to {MAX_CODE_LENGTH} are possible)"
    if not 1 <= token_bits <= 0xFFFF:
        return f"tokens of {token_bits} bits (1 to {0xFFFF} are possible)"
    if not 1 <= group_bits <= MAX_GROUP_BITS or token_bits % group_bits:
        return (
            f"ids of {group_bits} bits for tokens of {token_bits} (1 to {MAX_GROUP_BITS}, a "
            f"divisor, is possible)"
        )
    return None


def truncated(came: int, expected: str) -> ContainerTruncatedError:
    """The error of a container whose end is missing."""
    return ContainerTruncatedError(
        f"the container is truncated: {came} bytes came, {expected} were expected; "
        f"fetch the file again"
    )


def _damaged(problem: str) -> ContainerCorruptedError:
    return ContainerCorruptedError(
        f"the container's header is damaged: {problem}; fetch the file again"
    )


def _check_magic(data: bytes) -> None:
    start = data[: len(MAGIC)]
    if not start:
        raise NotAContainerError("no bytes came; a .flowmo container was expected")
    if start == MAGIC:
        return
    if MAGIC.startswith(start):
        raise truncated(len(data), f"at least {_HEADER_SIZES[1] + CRC.size}")
    hint = (
        "its line ends were changed on the way: transfer it as binary, not as text"
        if start[1:4] == MAGIC[1:4]
        else "check that it is the file that tokenize wrote"
    )
    raise NotAContainerError(
        f"not a .flowmo container: it begins with {start.hex(' ')}, a container with "
        f"{MAGIC.hex(' ')}; {hint}"
    )


def _read_version(data: bytes) -> int:
    if len(data) < _START:
        raise truncated(len(data), f"at least {_HEADER_SIZES[1] + CRC.size}")
    version: int = _VERSION.unpack_from(data, len(MAGIC))[0]
    if version not in VERSIONS:
        raise ContainerVersionError(
            f"the container has format version {version}, this release reads versions 1 and 2; "
            f"update flowmo-serve, or tokenize the image again with this release"
        )
    return version
