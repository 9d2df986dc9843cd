"""The JSON and the query parameters of generate."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from flowmo.model.container import Container
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from flowmo.service.http.cache import CacheOutcome
from flowmo.service.http.wire.bodies import Base64Bytes
from flowmo.service.http.wire.message import Message
from flowmo.service.http.wire.options import (
    MAX_GUIDANCE,
    ModelOptions,
    QualityOptions,
    StreamOptions,
)
from flowmo.service.http.wire.tokens import MAX_IDS_PER_TOKEN, MAX_TOKENS, TokensMessage

MAX_TEMPERATURE = 100.0
MAX_CLASS_NAME = 256
DEFAULT_PREVIEW_STEPS = 4

ClassName = Annotated[str, Field(max_length=MAX_CLASS_NAME)] | Annotated[int, Field(strict=True)]
Keep = Annotated[bool, Field(strict=True)]
KeepRow = Annotated[list[Keep], Field(max_length=MAX_IDS_PER_TOKEN, fail_fast=True)]


class GenerationOptions(Message):
    """How tokens are generated; what is not given is the prior's default."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    class_: ClassName | None = Field(
        default=None,
        alias="class",
        description="A class of the prior, by name or number (GET /v1/models); none by default.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**62,
        description="Of all random numbers; the same seed, the same image. Further images have "
        "those that follow.",
    )
    steps: int | None = Field(
        default=None, ge=1, description="The most steps of the prior, at most the server's limit."
    )
    guidance: float | None = Field(
        default=None, ge=0, le=MAX_GUIDANCE, description="Weight of the class; 1 is none."
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=MAX_TEMPERATURE,
        description="Softmax temperature; 0 takes the most probable ids.",
    )
    degrade: Literal["never", "allow"] = Field(
        default="never",
        description="allow: down to a quarter of the prior's steps if the deadline cannot be met "
        "otherwise; Flowmo-Steps says how many were allowed.",
    )
    decode_steps: int | None = Field(
        default=None, ge=1, description="Of a picture: sampler steps of the tokenizer."
    )

    def sampler(self, default: PriorSamplerConfig) -> PriorSamplerConfig:
        """Change the default sampler as the client asked."""
        return default.changed(
            steps=self.steps, guidance=self.guidance, temperature=self.temperature
        )


class GenerateOptions(ModelOptions, GenerationOptions, QualityOptions, StreamOptions):
    """Query parameters of generate."""

    count: int = Field(
        default=1, ge=1, description="How many images; more than one are answered as JSON alone."
    )
    preview_steps: int = Field(
        default=DEFAULT_PREVIEW_STEPS,
        ge=1,
        le=64,
        description="With stream: the sampler steps in which the tokens so far become a preview.",
    )


class GenerateBody(GenerateOptions):
    """JSON body of generate: options, and perhaps tokens of which some are kept."""

    not_options: ClassVar = frozenset({"tokens", "container", "mask"})
    """Members that are no options."""

    tokens: TokensMessage | None = Field(
        default=None, description="The tokens of one square, of which some are kept."
    )
    container: Base64Bytes | None = Field(
        default=None, description="A token container, base64; instead of tokens."
    )
    mask: (
        Annotated[list[Keep], Field(max_length=MAX_TOKENS, fail_fast=True)]
        | Annotated[list[KeepRow], Field(max_length=MAX_TOKENS, fail_fast=True)]
        | None
    ) = Field(
        default=None,
        description="Which tokens stay: K times true or false, or [K][D/G] of them for the ids.",
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.tokens is not None and self.container is not None:
            raise ValueError("only one of tokens and container is used")
        if (self.mask is None) != (self.tokens is None and self.container is None):
            raise ValueError("mask goes with tokens or container: which tokens, and who stays")
        return self

    def sent(self) -> TokensMessage | Container | None:
        """The tokens of which some are kept, if there are any.

        Raises:
            model.errors.ContainerError: A container that cannot be read.
        """
        return self.tokens if self.container is None else Container.from_bytes(self.container)


class GeneratedItem(Message):
    """The tokens of one new image."""

    seed: int
    steps: int = Field(description="The most steps that were allowed.")
    degraded_from: int | None = None
    cache: CacheOutcome
    tokens: TokensMessage


class GenerateAnswer(Message):
    """JSON answer of generate; ``tokens`` of an item can be posted to detokenize."""

    prior: str = Field(description="32 hex digits that name the prior's weights.")
    class_: str | int | None = Field(
        serialization_alias="class", description="By name where it has one; null for none."
    )
    guidance: float
    temperature: float
    items: list[GeneratedItem]
