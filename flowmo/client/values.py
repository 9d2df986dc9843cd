"""What goes into calls and what comes out of them."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flowmo.model.container import Container

if TYPE_CHECKING:
    from PIL import Image

Fit = Literal["native", "crop", "pad", "stretch"]
Region = tuple[int, int, int, int]
ImageFormat = Literal["png", "jpeg", "webp"]
Schedule = Literal["power", "linear", "merged"]
Degrade = Literal["never", "allow"]
Priority = Literal["interactive", "batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens become a picture; what is None is the server's default.

    Attributes:
        seed: The seed of the starting noise; the same seed gives the same picture.
        steps: The number of sampler steps.
        schedule: The time grid.
        rho: The exponent of schedules ``power`` and ``merged``.
        guidance: The classifier-free guidance weight; 1 is none.
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
        """The query parameters that say so."""
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
class PriorInfo:
    """What generates tokens of a model.

    Attributes:
        name: The prior's own name.
        fingerprint: What identifies its weights.
        classes: How many classes there are, numbered from 0.
        class_names: Their names, in order; empty where they have none.
    """

    name: str
    fingerprint: str
    classes: int
    class_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model that is served; the fields are those of ``GET /v1/models``.

    ``prior`` is what generates its tokens; None where nothing does.
    """

    name: str
    fingerprint: str
    image_size: int
    code_length: int
    token_bits: int
    group_bits: int
    payload_bytes: int
    prior: PriorInfo | None = None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class EncodedImage:
    """The tokens of an image; :meth:`Client.detokenize` takes them as they are.

    Attributes:
        container: Tokens, model fingerprint and size.
        data: The container's bytes as the server sent them.
        token_bytes: The size of the packed tokens alone.
        upload_size: Width and height of the image that was sent.
        timings: The server's stages in milliseconds; empty for an item of a batch.
        seconds: The time from request to answer, as the client saw it.
        request_id: The name of the request in the server's log.
    """

    container: Container
    data: bytes
    token_bytes: int
    upload_size: tuple[int, int]
    timings: Mapping[str, float]
    seconds: float
    request_id: str

    def to_bytes(self) -> bytes:
        """The container's bytes; what a ``.flowmo`` file holds."""
        return self.data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.flowmo`` file.

        Args:
            path: The file; one that is there is replaced.

        Raises:
            OSError: The file cannot be written.
        """
        Path(path).write_bytes(self.data)

    def __repr__(self) -> str:
        width, height = self.upload_size
        return (
            f"EncodedImage({self.token_bytes} bytes of tokens, {width} x {height} pixels sent, "
            f"model {self.container.fingerprint[:8]}, {self.seconds:.3f} s)"
        )


class ImageFile:
    """An image file that notebooks show."""

    __slots__ = ()
    data: bytes
    media_type: str

    def to_pil(self) -> "Image.Image":
        """The image as Pillow's, which is imported for it."""
        from PIL import Image

        image = Image.open(io.BytesIO(self.data))
        image.load()
        return image

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image file as it came.

        Args:
            path: The file; one that is there is replaced. Its suffix changes nothing.

        Raises:
            OSError: The file cannot be written.
        """
        Path(path).write_bytes(self.data)

    def _repr_png_(self) -> bytes | None:
        return self.data if self.media_type == "image/png" else None

    def _repr_jpeg_(self) -> bytes | None:
        return self.data if self.media_type == "image/jpeg" else None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class DecodedImage(ImageFile):
    """An image file from the server.

    Attributes:
        data: The content of a PNG, JPEG or WebP file.
        media_type: Which of them it is.
        seed: The seed that was used.
        steps: The number of steps that were made.
        schedule: The time grid that was used.
        guidance: The guidance weight that was used.
        degraded_from: The number of steps that were asked for, if fewer were made; see
            :class:`Sampling`.
        timings: The server's stages in milliseconds; empty for an item of a batch.
        seconds: The time from request to answer, as the client saw it.
        request_id: The name of the request in the server's log.
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

    def __repr__(self) -> str:
        return (
            f"DecodedImage({self.media_type}, {len(self.data):,} bytes, seed {self.seed}, "
            f"{self.steps} steps, guidance {self.guidance:g}, {self.seconds:.3f} s)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A step of a decode has been made.

    Attributes:
        step: The number of the step, 1 for the first.
        steps: The number of steps of the whole decode.
    """

    step: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Preview(ImageFile):
    """What a decode would give if it ended at a step.

    Attributes:
        step: The number of the step, 1 for the first.
        steps: The number of steps of the whole decode.
        data: The content of a PNG, JPEG or WebP file.
        media_type: Which of them it is.
    """

    step: int
    steps: int
    data: bytes
    media_type: str

    def __repr__(self) -> str:
        size = f"{len(self.data):,} bytes"
        return f"Preview(step {self.step} of {self.steps}, {self.media_type}, {size})"


DecodeEvent = Progress | Preview | DecodedImage
