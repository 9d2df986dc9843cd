"""What goes into calls and what comes out of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from flowmo.model.container import Container

Fit = Literal["crop", "pad", "stretch"]
ImageFormat = Literal["png", "jpeg", "webp"]
Schedule = Literal["power", "linear"]
Degrade = Literal["never", "allow"]
Priority = Literal["interactive", "batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens become a picture; what is None is the server's default.

    Attributes:
        seed: of the starting noise; the same seed gives the same picture.
        steps: of the sampler.
        schedule: time grid.
        rho: of schedule ``power``.
        guidance: classifier-free guidance weight; 1 is none.
        degrade: ``allow`` lets the server make fewer steps, at least a quarter, if the deadline
            cannot be met otherwise.
    """

    seed: int = 0
    steps: int | None = None
    schedule: Schedule | None = None
    rho: float | None = None
    guidance: float | None = None
    degrade: Degrade | None = None

    def params(self) -> dict[str, str]:
        """Query parameters."""
        given = {
            "seed": self.seed,
            "steps": self.steps,
            "schedule": self.schedule,
            "rho": self.rho,
            "guidance": self.guidance,
            "degrade": self.degrade,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model that is served; the fields are those of ``GET /v1/models``."""

    name: str
    fingerprint: str
    image_size: int
    code_length: int
    token_bits: int
    group_bits: int
    payload_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedImage:
    """Tokens of an image.

    Attributes:
        container: tokens, model fingerprint and size.
        data: the container's bytes as the server sent them.
        token_bytes: size of the packed tokens alone.
        upload_size: width and height of the image that was sent.
        timings: the server's stages in milliseconds; empty for an item of a batch.
        seconds: from request to answer, as the client saw it.
        request_id: names the request in the server's log.
    """

    container: Container
    data: bytes
    token_bytes: int
    upload_size: tuple[int, int]
    timings: Mapping[str, float]
    seconds: float
    request_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """An image file from the server.

    Attributes:
        data: PNG, JPEG or WebP.
        media_type: which of them.
        seed: that was used.
        steps: that were made.
        schedule: that was used.
        guidance: that was used.
        degraded_from: steps that were asked for, if fewer were made; see :class:`Sampling`.
        timings: the server's stages in milliseconds; empty for an item of a batch.
        seconds: from request to answer, as the client saw it.
        request_id: names the request in the server's log.
    """

    data: bytes
    media_type: str
    seed: int
    steps: int
    schedule: str
    guidance: float
    degraded_from: int | None
    timings: Mapping[str, float]
    seconds: float
    request_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A step of a decode has been made.

    Attributes:
        step: 1 for the first.
        steps: of the whole decode.
    """

    step: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a decode would give if it ended at a step.

    Attributes:
        step: 1 for the first.
        steps: of the whole decode.
        data: PNG, JPEG or WebP.
        media_type: which of them.
    """

    step: int
    steps: int
    data: bytes
    media_type: str


DecodeEvent = Progress | Preview | DecodedImage
