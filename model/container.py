"""The ``.flowmo`` container: one image's tokens as a file or HTTP body (docs/container.md).

The bytes are :mod:`flowmo.model.container_format`'s.
"""

import zlib
from dataclasses import dataclass
from typing import ClassVar, Self

from flowmo.model.config import FlowMoConfig
from flowmo.model.container_format import (
    CRC,
    ContainerHeader,
    is_fingerprint,
    size_problem,
    truncated,
)
from flowmo.model.errors import (
    ConfigError,
    ContainerCorruptedError,
    ContainerError,
    ContainerMismatchError,
    TokenError,
)
from flowmo.model.layout import NATIVE, PictureLayout
from flowmo.model.tokens import Tokens

MEDIA_TYPE = "application/vnd.flowmo"
FILE_SUFFIX = ".flowmo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """The tokens of one image and what is needed to decode them.

    Args:
        tokens: The tokens of all tiles.
        fingerprint: The model that made them, 32 lower-case hex digits.
        width: The width of the image in pixels, 1 to 65535, its orientation applied.
        height: Its height in pixels, likewise.
        tile_size: The side in pixels of the square that one tile's tokens decode to; the longer
            side of the image by default.
        overlap: The fewest pixels that neighbouring tiles share; see :class:`PictureLayout`.
        fit: How the image became tiles: ``native``, or the one square of ``crop``, ``pad`` or
            ``stretch``.

    Raises:
        ContainerError: A value is one that no container can have, or there are not as many tokens
            as tiles.
    """

    overhead: ClassVar[int] = 48 + CRC.size
    """Bytes of a container beside its payload, if the image is one square of the model's size."""

    picture_overhead: ClassVar[int] = 64 + CRC.size
    """Bytes of any other container beside its payload."""

    tokens: Tokens
    fingerprint: str
    width: int
    height: int
    tile_size: int = 0
    overlap: int = 0
    fit: str = NATIVE

    def __post_init__(self) -> None:
        if not is_fingerprint(self.fingerprint):
            raise ContainerError(
                f"a fingerprint is 32 lower-case hex digits, got {self.fingerprint!r}; "
                f"take it from the model"
            )
        tokens = self.tokens
        if problem := size_problem(tokens.code_length, tokens.token_bits, tokens.group_bits):
            raise ContainerError(f"these tokens do not fit in a container: {problem}")
        try:
            sides = [side for side in (self.width, self.height) if isinstance(side, int)]
            layout = PictureLayout(
                width=self.width,
                height=self.height,
                tile_size=self.tile_size or max(sides, default=0),
                overlap=self.overlap,
                fit=self.fit,
            )
        except ConfigError as error:
            raise ContainerError(str(error)) from error
        if layout.tiles != tokens.tile_count:
            raise ContainerError(
                f"tokens of {tokens.tile_count} tiles came, an image of {self.width} x "
                f"{self.height} pixels in tiles of {layout.tile_size} takes {layout.tiles}; "
                f"say tile_size and overlap as the tokens were made"
            )
        object.__setattr__(self, "tokens", Tokens.join([tokens]))  # ids [T, K, D/G], always
        for name in ("tile_size", "overlap", "fit"):
            object.__setattr__(self, name, getattr(layout, name))

    @property
    def layout(self) -> PictureLayout:
        """The size of the image and its tiles."""
        return PictureLayout(
            width=self.width,
            height=self.height,
            tile_size=self.tile_size,
            overlap=self.overlap,
            fit=self.fit,
        )

    @property
    def header(self) -> ContainerHeader:
        """What stands before the payload."""
        layout = self.layout
        return ContainerHeader(
            code_length=self.tokens.code_length,
            token_bits=self.tokens.token_bits,
            group_bits=self.tokens.group_bits,
            layout=layout,
            fingerprint=self.fingerprint,
            # What older releases can read is written as they know it.
            version=1 if layout.is_plain else 2,
        )

    def to_bytes(self) -> bytes:
        """The bytes of this container: header, payload, checksum."""
        body = self.header.to_bytes() + self.tokens.pack()
        return body + CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        max_pixels: int | None = None,
        max_tiles: int | None = None,
    ) -> Self:
        """Read a container. Time and memory are bounded by the length of ``data``.

        Args:
            data: The whole container and nothing else.
            max_pixels: The most pixels of the image that are accepted; no limit by default.
            max_tiles: The most tiles that are accepted; no limit by default.

        Raises:
            NotAContainerError: The bytes do not begin as a container does.
            ContainerVersionError: The format has a version that this release does not know.
            ContainerTruncatedError: The end is missing.
            ContainerCorruptedError: Bytes were changed, or follow the end.
            PictureTooLargeError: The image is larger than the limits.
        """
        data = memoryview(data).tobytes()
        header = ContainerHeader.read(data)
        header.layout.check_limits(max_pixels=max_pixels, max_tiles=max_tiles)
        _require_length(data, header.total)
        body = memoryview(data)[: -CRC.size]
        stored = CRC.unpack(data[-CRC.size :])[0]
        if (actual := zlib.crc32(body)) != stored:
            raise ContainerCorruptedError(
                f"the container is damaged: its CRC-32 is {actual:08x}, it was written with "
                f"{stored:08x}; fetch the file again"
            )
        try:
            tokens = Tokens.unpack(
                body[header.size :],
                code_length=header.code_length,
                token_bits=header.token_bits,
                group_bits=header.group_bits,
                tiles=header.layout.tiles,
            )
        except TokenError as error:
            raise ContainerCorruptedError(
                f"the container's payload breaks the format: {error}"
            ) from error
        layout = header.layout
        return cls(
            tokens=tokens,
            fingerprint=header.fingerprint,
            width=layout.width,
            height=layout.height,
            tile_size=layout.tile_size,
            overlap=layout.overlap,
            fit=layout.fit,
        )

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
        if self.tile_size != config.image_size:
            raise ContainerMismatchError(
                f"the container's tiles are {self.tile_size} pixels wide, those of model "
                f"{config.name!r} are {config.image_size}, although the container names it; "
                f"whatever wrote the container put the wrong size into it"
            )


def _require_length(data: bytes, expected: int) -> None:
    if len(data) < expected:
        raise truncated(len(data), str(expected))
    if len(data) > expected:
        raise ContainerCorruptedError(
            f"{len(data) - expected} bytes follow the container's end (it is {expected} bytes "
            f"long, {len(data)} came); pass one container alone"
        )
