"""Tokens in JSON."""

from typing import Annotated, Self

import numpy as np
from pydantic import BeforeValidator, Field

from flowmo.imaging.fit import Fit
from flowmo.model.errors import ConfigError, ContainerMismatchError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.layout import NATIVE, PictureLayout
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE, overlap_pixels
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.errors import FieldProblem, InvalidFieldsError
from flowmo.service.http.wire.message import Message

# Far above any model; they bound the work that a hostile list makes.
MAX_TOKENS = 65_536
MAX_IDS_PER_TOKEN = 256
MAX_TILES = 65_536
Id = Annotated[int, Field(ge=0, lt=2**24, strict=True)]
IdRow = Annotated[list[Id], Field(max_length=MAX_IDS_PER_TOKEN, fail_fast=True)]
IdTile = Annotated[list[IdRow], Field(max_length=MAX_TOKENS, fail_fast=True)]


def _tiled(ids: object) -> object:
    """[K][D/G] of one square as [1][K][D/G]."""
    one = isinstance(ids, list) and ids and isinstance(ids[0], list)
    return [ids] if one and not (ids[0] and isinstance(ids[0][0], list)) else ids  # type: ignore[index]


class TokensMessage(Message):
    """One picture's tokens.

    Of a square of the model's size only ``ids`` is needed on the way in; of any other picture its
    ``width`` and ``height``, too, and ``overlap`` and ``fit`` unless they are the defaults. The
    rest must agree with them.
    """

    ids: Annotated[
        list[IdTile], Field(max_length=MAX_TILES, fail_fast=True), BeforeValidator(_tiled)
    ] = Field(description="[tiles][K][D/G] ids of G bits; [K][D/G] of one tile is read, too.")
    width: int | None = Field(default=None, description="Of the picture, in pixels.")
    height: int | None = Field(default=None, description="Of the picture, in pixels.")
    tile_size: int | None = Field(default=None, description="Side of a tile: the model's square.")
    overlap: int | None = Field(
        default=None, description="The fewest pixels that neighbouring tiles share."
    )
    fit: Fit | None = Field(default=None, description="How the picture became tiles.")
    model: str | None = None
    fingerprint: str | None = Field(
        default=None, description="32 hex digits that name the weights."
    )
    code_length: int | None = Field(default=None, description="K, tokens a tile.")
    token_bits: int | None = Field(default=None, description="D, bits a token.")
    group_bits: int | None = Field(default=None, description="G, bits an id.")
    payload_bytes: int | None = Field(
        default=None, description="Size of the packed tokens of all tiles."
    )

    @classmethod
    def of(cls, name: str, tokens: ImageTokens) -> Self:
        """Make the message of tokens.

        Args:
            name: The name under which the model is served.
            tokens: Tokens that the model made.
        """
        return cls(
            ids=tokens.ids.tolist(),
            width=tokens.width,
            height=tokens.height,
            tile_size=tokens.tile_size,
            overlap=tokens.overlap,
            fit=tokens.fit,  # type: ignore[arg-type]
            model=name,
            fingerprint=tokens.fingerprint,
            code_length=tokens.code_length,
            token_bits=tokens.token_bits,
            group_bits=tokens.group_bits,
            payload_bytes=tokens.payload_bytes,
        )

    def _layout(self, info: ModelInfo) -> PictureLayout:
        """The picture and its tiles.

        Raises:
            TokenError: The size of a picture of several tiles is missing or impossible.
        """
        size = info.image_size
        if (self.width is None) != (self.height is None):
            raise TokenError("a picture has a width and a height: send both, or none for a square")
        width, height = self.width or size, self.height or size
        overlap = self.overlap
        if overlap is None:
            overlap = overlap_pixels(size, DEFAULT_OVERLAP_SHARE)
        try:
            return PictureLayout(
                width=width,
                height=height,
                tile_size=size,
                overlap=overlap,
                fit=self.fit or NATIVE,
            )
        except ConfigError as error:
            raise TokenError(str(error)) from error

    def to_tokens(self, info: ModelInfo) -> ImageTokens:
        """Take the tokens as ``info``'s model can decode them.

        Raises:
            ContainerMismatchError: The message names another model's weights.
            TokenError: The ids have another shape or are out of range.
            InvalidFieldsError: Other fields say something else than the ids.
        """
        if self.fingerprint is not None and self.fingerprint.lower() != info.fingerprint:
            raise ContainerMismatchError(
                f"the tokens were made by a model of other weights, this is {info.name!r} "
                f"({info.fingerprint})"
            )
        config = info.config
        layout = self._layout(info)
        if len(self.ids) != layout.tiles:
            raise TokenError(
                f"a picture of {layout.width} x {layout.height} pixels takes {layout.tiles} tiles, "
                f"got the ids of {len(self.ids)}; send width, height and overlap as they were "
                f"answered"
            )
        rows, columns = config.code_length, config.ids_per_token
        for tile in self.ids:
            lengths = {len(row) for row in tile}
            if len(tile) != rows or lengths != {columns}:
                raise TokenError(
                    f"ids must be {rows} lists of {columns}, got {len(tile)} lists of "
                    f"{sorted(lengths)[:8]}"
                )
        said = {
            "code_length": (self.code_length, config.code_length),
            "token_bits": (self.token_bits, config.token_bits),
            "group_bits": (self.group_bits, config.group_bits),
            "payload_bytes": (self.payload_bytes, layout.tiles * config.payload_bytes),
            "tile_size": (self.tile_size, info.image_size),
        }
        wrong = [
            FieldProblem(
                field=f"tokens.{name}",
                message=f"says {came}, and the ids are tokens with {true}; leave it out, or send "
                f"the tokens as they were answered",
            )
            for name, (came, true) in said.items()
            if came is not None and came != true
        ]
        if wrong:
            raise InvalidFieldsError(wrong)
        return ImageTokens.in_layout(
            np.array(self.ids, dtype=np.int32),
            layout,
            group_bits=config.group_bits,
            fingerprint=info.fingerprint,
        )
