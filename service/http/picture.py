"""Pictures on their way through the service, as files and as pixels."""

from dataclasses import dataclass

from flowmo.imaging.fit import FittedImage
from flowmo.imaging.reading import DecodedImage
from flowmo.model.config import SamplerConfig


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as the client sent it, and as the model takes it.

    Attributes:
        image: The uploaded image, decoded.
        fitted: The square that the model sees, and how it was cut from the image.
    """

    image: DecodedImage
    fitted: FittedImage


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as an image file.

    Attributes:
        data: The bytes of the file.
        sampler: The time grid and guidance that the picture was decoded with.
    """

    data: bytes
    sampler: SamplerConfig
