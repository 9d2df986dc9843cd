"""Tokens that remember which model made them: what a tokenizer gives, and a file can hold."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flowmo.model.container import Container
from flowmo.model.errors import ContainerError
from flowmo.model.files import write_file
from flowmo.model.tokens import Tokens


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ImageTokens(Tokens):
    """The tokens of one image and what is needed to decode them.

    They are :class:`Tokens` (two are equal when their ids are) and can be written as a ``.flowmo``
    container.

    Args:
        ids: Integers [K, D/G], each in [0, 2^G).
        group_bits: G, 1 to 24.
        fingerprint: The model that made the tokens, 32 lower-case hex digits.
        width: The width in pixels of the image that the tokens decode to, 1 to 65535.
        height: Its height in pixels, likewise.

    Raises:
        TokenError: The ids have a wrong shape, type or range.
        ContainerError: Another value is one that no container can have.
    """

    fingerprint: str
    width: int
    height: int

    def __post_init__(self) -> None:
        Tokens.__post_init__(self)
        self.container()  # which checks the rest

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
            tokens=tokens, fingerprint=self.fingerprint, width=self.width, height=self.height
        )

    def to_bytes(self) -> bytes:
        """The container's bytes, 52 more than the packed tokens; what a ``.flowmo`` file holds."""
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
        return (
            f"ImageTokens({self.code_length} tokens of {self.token_bits} bits, "
            f"{self.payload_bytes} bytes, {self.width} x {self.height} pixels, "
            f"model {self.fingerprint[:8]})"
        )

    def _repr_html_(self) -> str:
        """A row of a table, for notebooks."""
        cells = {
            "tokens": self.code_length,
            "bits": self.token_bits,
            "bytes": self.payload_bytes,
            "pixels": f"{self.width} × {self.height}",
            "model": f"<code>{self.fingerprint[:8]}</code>",
        }
        heads = "".join(f"<th>{name}</th>" for name in cells)
        values = "".join(f"<td>{value}</td>" for value in cells.values())
        return f"<table><tr>{heads}</tr><tr>{values}</tr></table>"
