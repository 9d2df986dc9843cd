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
from flowmo.model.errors import ContainerMismatchError, TokenError
from flowmo.model.tokens import Tokens
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.errors import FieldProblem, InvalidFieldsError
from flowmo.service.http.json_bodies import from_base64

MAX_GUIDANCE = 20.0
MAX_RHO = 100.0
MIN_RHO = 0.01
MAX_PREVIEWS = 32
MAX_NAME = 64

PreviewStep = Annotated[int, Field(ge=1)]


class _Message(BaseModel):
    """Unknown fields are errors: a misspelt option must not pass for a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelOptions(_Message):
    """Which model does the work."""

    model: str | None = Field(
        default=None,
        max_length=MAX_NAME,
        description="One of the names of GET /v1/models; by default the one that made the tokens, "
        "or the first.",
    )


class FitOptions(_Message):
    """How a picture becomes the model's square."""

    fit: Fit = Field(
        default=DEFAULT_FIT,
        description="crop: largest centred square; pad: whole picture on white; "
        "stretch: ignore the aspect ratio.",
    )


class SamplingOptions(_Message):
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
    schedule: Literal["power", "linear"] | None = Field(
        default=None, description="Time grid: (i/N)^(1/rho) or i/N."
    )
    rho: float | None = Field(
        default=None, ge=MIN_RHO, le=MAX_RHO, description="Of schedule=power."
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


class QualityOptions(_Message):
    """How a picture becomes a file."""

    quality: int = Field(
        default=DEFAULT_QUALITY, ge=1, le=100, description="Of JPEG and WebP; PNG is lossless."
    )


class StreamOptions(_Message):
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


class DetokenizeOptions(PictureOptions, StreamOptions):
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


class ImageBody(_Message):
    """An image in JSON; options of the route may stand beside it."""

    image: Base64Bytes = Field(description="The image file, base64 (no data: URL).")


class TokenizeBody(TokenizeOptions, ImageBody):
    """JSON body of tokenize."""


class ReconstructBody(ReconstructOptions, ImageBody):
    """JSON body of reconstruct."""


# Far above any model; they bound the work that a hostile list makes.
MAX_TOKENS = 65_536
MAX_IDS_PER_TOKEN = 256
Id = Annotated[int, Field(ge=0, lt=2**24, strict=True)]
IdRow = Annotated[list[Id], Field(max_length=MAX_IDS_PER_TOKEN, fail_fast=True)]


class TokensMessage(_Message):
    """One picture's tokens. Only ``ids`` is needed on the way in; the rest must agree with it."""

    ids: Annotated[list[IdRow], Field(max_length=MAX_TOKENS, fail_fast=True)] = Field(
        description="[K][D/G] ids of G bits."
    )
    model: str | None = None
    fingerprint: str | None = Field(
        default=None, description="32 hex digits that name the weights."
    )
    code_length: int | None = Field(default=None, description="K, tokens a picture.")
    token_bits: int | None = Field(default=None, description="D, bits a token.")
    group_bits: int | None = Field(default=None, description="G, bits an id.")
    payload_bytes: int | None = Field(default=None, description="Size of the packed tokens.")

    @classmethod
    def of(cls, name: str, tokens: Tokens, info: ModelInfo, fingerprint: str) -> Self:
        """Make the message of tokens.

        Args:
            name: The name under which the model is served.
            tokens: A token set of the model.
            info: The model's shapes.
            fingerprint: The fingerprint of the weights that made the tokens.
        """
        config = info.config
        return cls(
            ids=tokens.ids.tolist(),
            model=name,
            fingerprint=fingerprint,
            code_length=config.code_length,
            token_bits=config.token_bits,
            group_bits=config.group_bits,
            payload_bytes=config.payload_bytes,
        )

    def to_tokens(self, info: ModelInfo) -> Tokens:
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
        rows, columns = config.code_length, config.ids_per_token
        lengths = {len(row) for row in self.ids}
        if len(self.ids) != rows or lengths != {columns}:
            raise TokenError(
                f"ids must be {rows} lists of {columns}, got {len(self.ids)} lists of "
                f"{sorted(lengths)[:8]}"
            )
        said = {
            "code_length": (self.code_length, config.code_length),
            "token_bits": (self.token_bits, config.token_bits),
            "group_bits": (self.group_bits, config.group_bits),
            "payload_bytes": (self.payload_bytes, config.payload_bytes),
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
        ids = np.array(self.ids, dtype=np.int32)
        return Tokens(ids=ids, group_bits=config.group_bits)


class FitMessage(_Message):
    """What was done to a picture, in pixels; boxes are left, top, right, bottom."""

    fit: Fit
    size: int = Field(description="Side of the square.")
    source: tuple[int, int, int, int] = Field(description="Part of the upload that was used.")
    target: tuple[int, int, int, int] = Field(description="Where in the square it lies.")

    @classmethod
    def of(cls, report: FitReport) -> Self:
        """The report as a message."""
        return cls(fit=report.fit, size=report.size, source=report.source, target=report.target)


class UploadMessage(_Message):
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


class TokensBody(_Message):
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


class TokenizeAnswer(_Message):
    """JSON answer of tokenize; it can be posted to detokenize as it is."""

    tokens: TokensMessage
    upload: UploadMessage
    fit: FitMessage


class ModelMessage(_Message):
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
        )


class ModelsAnswer(_Message):
    """All models that are served."""

    models: list[ModelMessage]
