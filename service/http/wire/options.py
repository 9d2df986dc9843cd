"""Options of requests: query parameters, or members of a JSON body."""

from typing import Annotated, Literal

from pydantic import Field

from flowmo.imaging.fit import DEFAULT_FIT, Fit
from flowmo.imaging.writing import DEFAULT_QUALITY
from flowmo.model.config import SamplerConfig
from flowmo.model.tiling import DEFAULT_OVERLAP_SHARE, MAX_OVERLAP_SHARE
from flowmo.service.engine.calls import Region
from flowmo.service.http.wire.message import Message

MAX_GUIDANCE = 20.0
MAX_RHO = 100.0
MIN_RHO = 0.01
MAX_PREVIEWS = 32
MAX_NAME = 64

PreviewStep = Annotated[int, Field(ge=1)]


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
