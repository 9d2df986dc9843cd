"""The JSON of batch requests and their answers.

An item is what the body of the single route would be.
"""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, Field, model_validator

from flowmo.imaging.writing import ImageFormat
from flowmo.service.http.cache import CacheOutcome
from flowmo.service.http.problems import Problem
from flowmo.service.http.wire.bodies import FitMessage, ImageBody, TokensBody, UploadMessage
from flowmo.service.http.wire.options import FitOptions, PictureOptions, TokenizeOptions
from flowmo.service.http.wire.tokens import TokensMessage


class TokenizeItemOptions(TokenizeOptions):
    """Query parameters of tokenize/batch."""

    tokens: Literal["ids", "container"] = Field(
        default="ids", description="Form of each item's tokens."
    )


class PictureItemOptions(PictureOptions):
    """Query parameters of detokenize/batch."""

    format: ImageFormat = Field(default="png", description="Of each item's picture.")


class ReconstructItemOptions(PictureItemOptions, FitOptions):
    """Query parameters of reconstruct/batch."""


class TokenizeItem(TokenizeItemOptions, ImageBody):
    """One image of tokenize/batch."""


class DetokenizeItem(PictureItemOptions, TokensBody):
    """One token set of detokenize/batch; an item of tokenize/batch's answer is one as it is."""

    status: int | None = Field(default=None, description="As tokenize/batch answered it; not used.")
    index: int | None = Field(default=None, description="Of a line of tokenize/batch; not used.")
    problem: Problem | None = Field(
        default=None, description="As tokenize/batch answered it; such an item has no tokens."
    )

    @model_validator(mode="before")
    @classmethod
    def _has_tokens(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("problem") is not None:
            raise ValueError("this item has a problem in the place of tokens: it was not tokenized")
        return data


class ReconstructItem(ReconstructItemOptions, ImageBody):
    """One image of reconstruct/batch."""


class TokenizeBatchBody(TokenizeItemOptions):
    """JSON body of tokenize/batch."""

    items: list[TokenizeItem]


class DetokenizeBatchBody(PictureItemOptions):
    """JSON body of detokenize/batch; what tokenize/batch answered is one as it is."""

    items: list[DetokenizeItem]
    succeeded: int | None = Field(default=None, description="Not used.")
    failed: int | None = Field(default=None, description="Not used.")


class ReconstructBatchBody(ReconstructItemOptions):
    """JSON body of reconstruct/batch."""

    items: list[ReconstructItem]


class ItemAnswer(BaseModel):
    """The outcome of one item.

    Members that do not apply are left out: a failed item has ``problem`` alone.
    """

    status: int = Field(description="What the single route would have answered.")
    problem: Problem | None = None


class UploadAnswer(ItemAnswer):
    """The outcome of an uploaded image."""

    upload: UploadMessage | None = None
    fit: FitMessage | None = None


class TokenizeItemAnswer(UploadAnswer):
    """The tokens of an image, in the form that was asked for."""

    model: str | None = None
    tokens: TokensMessage | None = None
    container: str | None = Field(default=None, description="The token container, base64.")


class PictureItemAnswer(UploadAnswer):
    """A picture file, and how it was decoded."""

    model: str | None = None
    media_type: str | None = None
    image: str | None = Field(default=None, description="The file, base64.")
    seed: int | None = None
    steps: int | None = None
    schedule: str | None = None
    rho: float | None = None
    guidance: float | None = None
    degraded_from: int | None = None
    cache: CacheOutcome | None = None


A = TypeVar("A", bound=ItemAnswer)


class BatchAnswer(BaseModel, Generic[A]):
    """The outcomes, in the order of the items."""

    succeeded: int
    failed: int
    items: list[A]
