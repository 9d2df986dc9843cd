"""Tokens that remember which model made them: what a tokenizer gives, and a file can hold."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flowmo.model.container import Container
from flowmo.model.errors import ContainerError
from flowmo.model.files import write_file
from flowmo.model.layout import NATIVE, PictureLayout
from flowmo.model.tokens import Tokens


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ImageTokens(Tokens):
    """The tokens of one image and what is needed to decode them.

    They are :class:`Tokens` (two are equal when their ids are) and can be written as a ``.flowmo``
    container.

    Args:
        ids: Integers [T, K, D/G] (or [K, D/G] of one tile), each in [0, 2^G).
        group_bits: G, 1 to 24.
        fingerprint: The model that made the tokens, 32 lower-case hex digits.
        width: The width of the image in pixels, 1 to 65535.
        height: Its height in pixels, likewise.
        tile_size: The side in pixels of the model's square; the longer side of the image by
            default.
        overlap: The fewest pixels that neighbouring tiles share.
        fit: How the image became tiles: ``native``, or one square by ``crop``, ``pad`` or
            ``stretch``.

    Raises:
        TokenError: The ids have a wrong shape, type or range.
        ContainerError: Another value is one that no container can have, or there are not as many
            tokens as tiles.
    """

    fingerprint: str
    width: int
    height: int
    tile_size: int = 0
    overlap: int = 0
    fit: str = NATIVE

    def __post_init__(self) -> None:
        Tokens.__post_init__(self)
        container = self.container()  # which checks the rest
        object.__setattr__(self, "ids", container.tokens.ids)
        for name, value in (
            ("tile_size", container.tile_size),
            ("overlap", container.overlap),
            ("fit", container.fit),
        ):
            object.__setattr__(self, name, value)

    @property
    def layout(self) -> PictureLayout:
        """The size of the image and its tiles."""
        return self.container().layout

    @classmethod
    def in_layout(
        cls, ids: NDArray[np.int32], layout: PictureLayout, *, group_bits: int, fingerprint: str
    ) -> Self:
        """The tokens of a picture whose tiles are known.

        Args:
            ids: Integers [T, K, D/G], each in [0, 2^G).
            layout: The picture and its T tiles.
            group_bits: G, 1 to 24.
            fingerprint: The model that made the tokens.

        Raises:
            TokenError: As of the class.
            ContainerError: As of the class.
        """
        return cls(
            ids=ids,
            group_bits=group_bits,
            fingerprint=fingerprint,
            width=layout.width,
            height=layout.height,
            tile_size=layout.tile_size,
            overlap=layout.overlap,
            fit=layout.fit,
        )

    @classmethod
    def of(cls, container: Container) -> Self:
        """The tokens of a container.

        Args:
            container: A container that was read.
        """
        return cls(
            ids=container.tokens.ids,
            group_bits=container.tokens.group_bits,
            fingerprint=container.fingerprint,
            width=container.width,
            height=container.height,
            tile_size=container.tile_size,
            overlap=container.overlap,
            fit=container.fit,
        )

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """The tokens of a container's bytes.

        Args:
            data: The whole container and nothing else.

        Raises:
            ContainerError: The bytes cannot be read as a container.
        """
        return cls.of(Container.from_bytes(data))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The tokens of a ``.flowmo`` file.

        Args:
            path: The file.

        Raises:
            OSError: The file cannot be read.
            ContainerError: Its content cannot be read as a container; the message names the file.
        """
        data = Path(path).read_bytes()
        try:
            return cls.from_bytes(data)
        except ContainerError as error:
            raise type(error)(f"{os.fspath(path)}: {error}") from error

    def container(self) -> Container:
        """These tokens as a container."""
        tokens = Tokens(ids=self.ids, group_bits=self.group_bits)
        return Container(
            tokens=tokens,
            fingerprint=self.fingerprint,
            width=self.width,
            height=self.height,
            tile_size=self.tile_size,
            overlap=self.overlap,
            fit=self.fit,
        )

    def to_bytes(self) -> bytes:
        """The container's bytes; what a ``.flowmo`` file holds.

        They are 52 more than the packed tokens of one square of the model's size, else 68 more.
        """
        return self.container().to_bytes()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.flowmo`` file; one that is there is replaced.

        Args:
            path: The file.

        Raises:
            OSError: The file cannot be written.
        """
        write_file(Path(path), self.to_bytes(), flush_to_disk=False)

    def __repr__(self) -> str:
        tiles = "" if self.tile_count == 1 else f"{self.tile_count} tiles of "
        return (
            f"ImageTokens({tiles}{self.code_length} tokens of {self.token_bits} bits, "
            f"{self.payload_bytes} bytes, {self.width} x {self.height} pixels, "
            f"model {self.fingerprint[:8]})"
        )

    def _repr_html_(self) -> str:
        """A row of a table, for notebooks."""
        cells = {
            "tiles": self.tile_count,
            "tokens": self.code_length,
            "bits": self.token_bits,
            "bytes": self.payload_bytes,
            "pixels": f"{self.width} × {self.height}",
            "model": f"<code>{self.fingerprint[:8]}</code>",
        }
        heads = "".join(f"<th>{name}</th>" for name in cells)
        values = "".join(f"<td>{value}</td>" for value in cells.values())
        return f"<table><tr>{heads}</tr><tr>{values}</tr></table>"
