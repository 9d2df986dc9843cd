"""Pictures that the service has made."""

from dataclasses import dataclass

from flowmo.model.config import SamplerConfig


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture as an image file.

    Attributes:
        data: The bytes of the file.
        sampler: The time grid and guidance that the picture was decoded with.
    """

    data: bytes
    sampler: SamplerConfig
