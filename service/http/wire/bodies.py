"""The JSON of tokenize, detokenize and reconstruct."""

from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from flowmo.imaging.fit import Fit, FitReport
from flowmo.imaging.worker import SquareImage
from flowmo.model.container import Container
from flowmo.service.http.json_bodies import from_base64
from flowmo.service.http.wire.message import Message
from flowmo.service.http.wire.options import DetokenizeOptions, ReconstructOptions, TokenizeOptions
from flowmo.service.http.wire.tokens import TokensMessage


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
