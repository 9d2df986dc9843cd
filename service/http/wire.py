"""The JSON and the query parameters of requests and answers."""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from flowmo.imaging.fit import DEFAULT_FIT, Fit, FitReport
from flowmo.imaging.worker import SquareImage
from flowmo.imaging.writing import DEFAULT_QUALITY
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.container import Container
from flowmo.model.errors import ConfigError, ContainerMismatchError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.layout import NATIVE, PictureLayout
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE, MAX_OVERLAP_SHARE, overlap_pixels
from flowmo.service.engine.calls import Region
from flowmo.service.engine.model_info import ModelInfo, PriorInfo
from flowmo.service.errors import FieldProblem, InvalidFieldsError
from flowmo.service.http.json_bodies import from_base64

MAX_GUIDANCE = 20.0
MAX_RHO = 100.0
MIN_RHO = 0.01
MAX_PREVIEWS = 32
MAX_NAME = 64

PreviewStep = Annotated[int, Field(ge=1)]


class Message(BaseModel):
    """Unknown fields are errors: a misspelt option must not pass for a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelOptions(Message):
    """Which model does the work."""

    model: str | None = Field(
        default=None,
        max_length=MAX_NAME,
        description="One of the names of GET /v1/models; by default the one that made the tokens, "
        "or the first.",
    )


class FitOptions(Message):
    """What becomes of a picture before the model sees it."""

    fit: Fit = Field(
        default=DEFAULT_FIT,
        description="native: tiles of the model's size cover the picture, which comes back as it "
        "was; or one square of it: crop, its largest centred one; pad, all of it on white; "
        "stretch, whatever its aspect ratio.",
    )
    overlap: float = Field(
        default=DEFAULT_OVERLAP_SHARE,
        ge=0,
        le=MAX_OVERLAP_SHARE,
        description="With fit=native: the share of a tile's side that neighbours have in common "
        "at least.",
    )


class SamplingOptions(Message):
    """How tokens become a picture; what is not given is the model's default."""

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Of the starting noise; the same seed, the same picture.",
    )
    steps: int | None = Field(
        default=None, ge=1, description="Sampler steps, at most the server's limit."
    )
    schedule: Literal["power", "linear", "merged"] | None = Field(
        default=None,
        description="Time grid: (i/N)^(1/rho), i/N, or the first with five more steps whose last "
        "six are one.",
    )
    rho: float | None = Field(
        default=None, ge=MIN_RHO, le=MAX_RHO, description="Of schedule=power and merged."
    )
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=MAX_GUIDANCE,
        description="Classifier-free guidance weight; 1 is none.",
    )

    degrade: Literal["never", "allow"] = Field(
        default="never",
        description="allow: down to a quarter of the steps if the deadline cannot be met "
        "otherwise; Flowmo-Steps says how many were made.",
    )

    def sampler(self, default: SamplerConfig) -> SamplerConfig:
        """Change the default sampler as the client asked.

        Raises:
            ConfigError: The choices do not go together.
        """
        return default.changed(
            steps=self.steps, schedule=self.schedule, rho=self.rho, guidance=self.guidance
        )


class QualityOptions(Message):
    """How a picture becomes a file."""

    quality: int = Field(
        default=DEFAULT_QUALITY, ge=1, le=100, description="Of JPEG and WebP; PNG is lossless."
    )


class RegionOptions(Message):
    """Which part of a picture is wanted."""

    region: str | None = Field(
        default=None,
        pattern=r"^\d{1,5},\d{1,5},\d{1,5},\d{1,5}$",
        description="x,y,width,height in pixels of the picture; all of it by default. Only the "
        "tiles that touch the region are decoded.",
    )

    @property
    def box(self) -> Region | None:
        """The region as numbers."""
        if self.region is None:
            return None
        x, y, width, height = map(int, self.region.split(","))
        return x, y, width, height


class StreamOptions(Message):
    """Whether a decode is seen while it is made."""

    stream: bool = Field(
        default=False, description="Answer with Server-Sent Events: progress, previews, the image."
    )
    previews: Annotated[list[PreviewStep], Field(max_length=MAX_PREVIEWS)] = Field(
        default=[],
        description="With stream: steps, 1 for the first, after which the image so far is sent.",
    )


class TokenizeOptions(ModelOptions, FitOptions):
    """Query parameters of tokenize."""


class PictureOptions(ModelOptions, SamplingOptions, QualityOptions):
    """How tokens become a picture file."""


class DetokenizeOptions(PictureOptions, RegionOptions, StreamOptions):
    """Query parameters of detokenize."""


class ReconstructOptions(PictureOptions, FitOptions):
    """Query parameters of reconstruct."""


def _base64(value: object) -> object:
    if not isinstance(value, str):
        return value  # refused by the field's own type
    try:
        return from_base64(value)
    except ValueError:
        raise ValueError("not base64 (standard alphabet, padded, no data: URL)") from None


Base64Bytes = Annotated[
    bytes,
    BeforeValidator(_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


class ImageBody(Message):
    """An image in JSON; options of the route may stand beside it."""

    image: Base64Bytes = Field(description="The image file, base64 (no data: URL).")


class TokenizeBody(TokenizeOptions, ImageBody):
    """JSON body of tokenize."""


class ReconstructBody(ReconstructOptions, ImageBody):
    """JSON body of reconstruct."""


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


class FitMessage(Message):
    """What was done to a picture, in pixels; boxes are left, top, right, bottom."""

    fit: Fit
    size: int = Field(description="Side of the square, or of a tile.")
    source: tuple[int, int, int, int] = Field(description="Part of the upload that was used.")
    target: tuple[int, int, int, int] = Field(description="Where in the result it lies.")

    @classmethod
    def of(cls, report: FitReport) -> Self:
        """The report as a message."""
        return cls(fit=report.fit, size=report.size, source=report.source, target=report.target)


class UploadMessage(Message):
    """What the client uploaded."""

    width: int = Field(description="In pixels, after the orientation was applied.")
    height: int = Field(description="In pixels, after the orientation was applied.")
    format: str
    animated: bool = Field(description="There were further frames; only the first was used.")

    @classmethod
    def of(cls, image: SquareImage) -> Self:
        """The upload as a message."""
        return cls(
            width=image.width, height=image.height, format=image.format, animated=image.animated
        )


_CARRIED = "As tokenize answered it; not used."


class TokensBody(Message):
    """Tokens in JSON, in one of two forms; options of the route may stand beside them.

    What tokenize answered is such a body as it is.
    """

    not_options: ClassVar = frozenset({"tokens", "container", "upload", "fit"})
    """Members that are no options of the route."""

    tokens: TokensMessage | None = None
    container: Base64Bytes | None = Field(
        default=None, description="A token container, base64; instead of tokens."
    )
    upload: UploadMessage | None = Field(default=None, description=_CARRIED)
    fit: FitMessage | None = Field(default=None, description=_CARRIED)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.tokens is None) == (self.container is None):
            raise ValueError("exactly one of tokens and container is needed")
        return self

    def sent(self) -> "TokensMessage | Container":
        """Whichever there is.

        Raises:
            model.errors.ContainerError: a container that cannot be read.
        """
        if self.tokens is not None:
            return self.tokens
        assert self.container is not None
        return Container.from_bytes(self.container)


class DetokenizeBody(DetokenizeOptions, TokensBody):
    """JSON body of detokenize."""


class TokenizeAnswer(Message):
    """JSON answer of tokenize; it can be posted to detokenize as it is."""

    tokens: TokensMessage
    upload: UploadMessage
    fit: FitMessage


class PriorMessage(Message):
    """What generates tokens of a model."""

    name: str
    fingerprint: str
    classes: int = Field(description="How many there are; they are numbered from 0.")
    class_names: list[str] = Field(description="In order; empty where they have none.")
    sampler: dict[str, Any] = Field(description="Default steps, guidance and temperature.")

    @classmethod
    def of(cls, info: PriorInfo) -> Self:
        """Make the message of a prior."""
        config = info.config
        return cls(
            name=config.name,
            fingerprint=info.fingerprint,
            classes=config.classes,
            class_names=list(config.class_names),
            sampler=config.sampler.to_dict(),
        )


class ModelMessage(Message):
    """One model that is served."""

    name: str
    fingerprint: str
    image_size: int
    code_length: int
    token_bits: int
    group_bits: int
    ids_per_token: int
    payload_bytes: int
    sampler: dict[str, Any] = Field(description="Default time grid and guidance.")
    max_steps: int
    device: str
    dtype: str
    runner: str
    ready: bool
    prior: PriorMessage | None = Field(
        default=None, description="What POST /v1/generate generates with; null if it cannot."
    )

    @classmethod
    def of(cls, name: str, info: ModelInfo, *, max_steps: int, ready: bool) -> Self:
        """Make the message of a model that is served under a name."""
        config: FlowMoConfig = info.config
        return cls(
            name=name,
            fingerprint=info.fingerprint,
            image_size=config.image_size,
            code_length=config.code_length,
            token_bits=config.token_bits,
            group_bits=config.group_bits,
            ids_per_token=config.ids_per_token,
            payload_bytes=config.payload_bytes,
            sampler=config.sampler.to_dict(),
            max_steps=max_steps,
            device=info.device,
            dtype=info.dtype,
            runner=info.runner,
            ready=ready,
            prior=None if info.prior is None else PriorMessage.of(info.prior),
        )


class ModelsAnswer(Message):
    """All models that are served."""

    models: list[ModelMessage]
