"""The ``.flowmo`` container: one image's tokens as a file or HTTP body (docs/container.md).

Version 1, little-endian::

    offset  size  field
         0     8  magic, 89 46 4C 4D 0D 0A 1A 0A
         8     2  version, 1
        10     2  D, bits a token
        12     2  G, bits an id; divides D
        14     2  reserved, 0
        16     4  K, tokens
        20     4  width of the image that the tokens decode to, in pixels
        24     4  height
        28     4  length of the payload in bytes, ceil(K D / 8)
        32    16  fingerprint of the model that made the tokens
        48     n  payload (model.tokens)
      48+n     4  CRC-32 (zlib's) of all bytes before it
"""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import ClassVar, Self

from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import (
    ContainerCorruptedError,
    ContainerError,
    ContainerMismatchError,
    ContainerTruncatedError,
    ContainerVersionError,
    NotAContainerError,
    TokenError,
)
from flowmo.model.tokens import MAX_GROUP_BITS, Tokens, payload_bytes

MEDIA_TYPE = "application/vnd.flowmo"
FILE_SUFFIX = ".flowmo"

# As PNG's: a byte that no text has, a name, and the line ends and end-of-file mark that transfers
# in text mode change. The name is "FLM".
MAGIC = b"\x89FLM\r\n\x1a\n"
VERSION = 1
# Far above any model, and low enough that a hostile header names no absurd picture.
MAX_SIDE = 65_535
MAX_CODE_LENGTH = 2**20

_VERSION = struct.Struct("<H")
_FIELDS = struct.Struct("<HHHIIII16s")
_CRC = struct.Struct("<I")
_HEADER_SIZE = len(MAGIC) + _VERSION.size + _FIELDS.size
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """The tokens of one image and what is needed to decode them.

    Args:
        tokens: The tokens.
        fingerprint: The model that made them, 32 lower-case hex digits.
        width: The width in pixels of the image that the tokens decode to, 1 to 65535.
        height: Its height in pixels, likewise.

    Raises:
        ContainerError: A value is one that no container can have.
    """

    overhead: ClassVar[int] = _HEADER_SIZE + _CRC.size
    """Bytes of a container beside its payload."""

    tokens: Tokens
    fingerprint: str
    width: int
    height: int

    def __post_init__(self) -> None:
        if not _FINGERPRINT.fullmatch(self.fingerprint):
            raise ContainerError(
                f"a fingerprint is 32 lower-case hex digits, got {self.fingerprint!r}; "
                f"take it from the model"
            )
        for name, value in (("width", self.width), ("height", self.height)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE:
                raise ContainerError(
                    f"{name} must be a whole number of pixels from 1 to {MAX_SIDE}, got {value!r}"
                )
        if problem := _size_problem(
            self.tokens.code_length, self.tokens.token_bits, self.tokens.group_bits
        ):
            raise ContainerError(f"these tokens do not fit in a container: {problem}")

    def to_bytes(self) -> bytes:
        """The bytes of this container, :attr:`overhead` more than the payload."""
        payload = self.tokens.pack()
        fields = _FIELDS.pack(
            self.tokens.token_bits,
            self.tokens.group_bits,
            0,
            self.tokens.code_length,
            self.width,
            self.height,
            len(payload),
            bytes.fromhex(self.fingerprint),
        )
        body = MAGIC + _VERSION.pack(VERSION) + fields + payload
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read a container. Time and memory are bounded by the length of ``data``.

        Args:
            data: The whole container and nothing else.

        Raises:
            NotAContainerError: The bytes do not begin as a container does.
            ContainerVersionError: The format has a version that this release does not know.
            ContainerTruncatedError: The end is missing.
            ContainerCorruptedError: Bytes were changed, or follow the end.
        """
        data = memoryview(data).tobytes()
        _check_magic(data)
        _check_version(data)
        _require_length(data, cls.overhead, at_least=True)
        token_bits, group_bits, reserved, code_length, width, height, length, digest = (
            _FIELDS.unpack_from(data, len(MAGIC) + _VERSION.size)
        )
        if problem := _header_problem(
            sizes=(code_length, token_bits, group_bits),
            sides=(width, height),
            reserved=reserved,
            length=length,
        ):
            raise ContainerCorruptedError(
                f"the container's header is damaged: {problem}; fetch the file again"
            )
        _require_length(data, cls.overhead + length, at_least=False)
        body, stored = data[: -_CRC.size], _CRC.unpack(data[-_CRC.size :])[0]
        if (actual := zlib.crc32(body)) != stored:
            raise ContainerCorruptedError(
                f"the container is damaged: its CRC-32 is {actual:08x}, it was written with "
                f"{stored:08x}; fetch the file again"
            )
        try:
            tokens = Tokens.unpack(
                body[_HEADER_SIZE:],
                code_length=code_length,
                token_bits=token_bits,
                group_bits=group_bits,
            )
        except TokenError as error:
            raise ContainerCorruptedError(
                f"the container's payload breaks the format: {error}"
            ) from error
        return cls(tokens=tokens, fingerprint=digest.hex(), width=width, height=height)

    def check_model(self, fingerprint: str, config: FlowMoConfig) -> None:
        """Check that a model can decode these tokens.

        Args:
            fingerprint: The fingerprint of the model at hand.
            config: The config of the model at hand.

        Raises:
            ContainerMismatchError: Another model made them.
        """
        if self.fingerprint != fingerprint:
            raise ContainerMismatchError(
                f"the tokens were made by the model {self.fingerprint}, the model at hand is "
                f"{fingerprint} ({config.name!r}); decode them with the model that made them, or "
                f"tokenize the image again with this one"
            )
        came = (self.tokens.code_length, self.tokens.token_bits, self.tokens.group_bits)
        expected = (config.code_length, config.token_bits, config.group_bits)
        if came != expected:
            raise ContainerMismatchError(
                f"the container holds tokens of (K, D, G) = {came}, model {config.name!r} "
                f"({fingerprint}) has {expected}, although the container names it; whatever wrote "
                f"the container put the wrong fingerprint into it"
            )


def _check_magic(data: bytes) -> None:
    start = data[: len(MAGIC)]
    if not start:
        raise NotAContainerError("no bytes came; a .flowmo container was expected")
    if start == MAGIC:
        return
    if MAGIC.startswith(start):
        raise _truncated(len(data), f"at least {Container.overhead}")
    hint = (
        "its line ends were changed on the way: transfer it as binary, not as text"
        if start[1:4] == MAGIC[1:4]
        else "check that it is the file that tokenize wrote"
    )
    raise NotAContainerError(
        f"not a .flowmo container: it begins with {start.hex(' ')}, a container with "
        f"{MAGIC.hex(' ')}; {hint}"
    )


def _check_version(data: bytes) -> None:
    if len(data) < len(MAGIC) + _VERSION.size:
        raise _truncated(len(data), f"at least {Container.overhead}")
    version = _VERSION.unpack_from(data, len(MAGIC))[0]
    if version != VERSION:
        raise ContainerVersionError(
            f"the container has format version {version}, this release reads version {VERSION}; "
            f"update flowmo-serve, or tokenize the image again with this release"
        )


def _require_length(data: bytes, expected: int, *, at_least: bool) -> None:
    if len(data) < expected:
        raise _truncated(len(data), f"at least {expected}" if at_least else str(expected))
    if len(data) > expected and not at_least:
        raise ContainerCorruptedError(
            f"{len(data) - expected} bytes follow the container's end (it is {expected} bytes "
            f"long, {len(data)} came); pass one container alone"
        )


def _truncated(came: int, expected: str) -> ContainerTruncatedError:
    return ContainerTruncatedError(
        f"the container is truncated: {came} bytes came, {expected} were expected; "
        f"fetch the file again"
    )


def _header_problem(
    *, sizes: tuple[int, int, int], sides: tuple[int, int], reserved: int, length: int
) -> str | None:
    """What is impossible in a header, or None."""
    if problem := _size_problem(*sizes):
        return problem
    if not all(1 <= side <= MAX_SIDE for side in sides):
        return f"an image of {sides[0]} x {sides[1]} pixels (1 to {MAX_SIDE} are possible)"
    if reserved:
        return f"the reserved field is {reserved}, not 0"
    code_length, token_bits, _ = sizes
    if length != (expected := payload_bytes(code_length, token_bits)):
        return (
            f"a payload of {length} bytes, where {code_length} tokens of {token_bits} bits take "
            f"{expected}"
        )
    return None


def _size_problem(code_length: int, token_bits: int, group_bits: int) -> str | None:
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
