"""What ``flowmo generate`` asks for, and what it gets, wherever it is made."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowmo.client import ImageFormat

if TYPE_CHECKING:
    from flowmo.model.container import Container


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is asked for, of a model here or of a server.

    Attributes:
        class_: The class, by name or number; None for none.
        count: How many images.
        seed: The seed of the first; each further one has the next.
        steps: The most steps of the prior; its own by default, as of the next two.
        guidance: The weight of the class.
        temperature: The softmax temperature.
        container: Tokens of which some are kept.
        mask: Which: true for each token that stays.
        decode_steps: The steps in which tokens become a picture; the tokenizer's own by default.
        format: The format of pictures; None where only tokens are wanted.
        quality: The quality of JPEG and WebP.
    """

    class_: str | None
    count: int
    seed: int
    steps: int | None
    guidance: float | None
    temperature: float | None
    container: "Container | None"
    mask: list[bool] | None
    decode_steps: int | None
    format: ImageFormat | None
    quality: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One image.

    Attributes:
        seed: Its seed.
        container: The bytes of its tokens.
        picture: The bytes of its file; None where only tokens are wanted.
    """

    seed: int
    container: bytes
    picture: bytes | None
