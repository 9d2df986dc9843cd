"""What is served: the model card that clients and checks read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.service.engine.sizes import TORCH

if TYPE_CHECKING:  # the card itself does not need torch
    from flowmo.model.inference import InferenceModel
    from flowmo.model.prior.config import PriorConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorInfo:
    """The prior that generates tokens of a served model.

    Attributes:
        fingerprint: 32 hex digits that name its weights.
        config: Its sizes, classes and default sampler.
    """

    fingerprint: str
    config: "PriorConfig"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A served model, for clients and for checks.

    Attributes:
        fingerprint: 32 hex digits that name the weights.
        config: The model's shapes and its default sampler.
        device: The device that computes, for people.
        dtype: The dtype of weights and activations, for people.
        runner: What computes: a kind of :class:`flowmo.deploy.runners.Runtime`, for people.
        is_fallback: PyTorch computes because what was asked for is not available.
        prior: What generates its tokens; None where nothing does.
    """

    fingerprint: str
    config: FlowMoConfig
    device: str
    dtype: str
    runner: str = TORCH
    is_fallback: bool = False
    prior: PriorInfo | None = None

    @classmethod
    def of(cls, model: "InferenceModel", runner: str = TORCH, *, is_fallback: bool = False) -> Self:
        """The card of a PyTorch model.

        Args:
            model: The loaded model.
            runner: The kind of runner that computes it.
            is_fallback: Whether that is not the runner that was asked for.
        """
        return cls(
            fingerprint=model.fingerprint,
            config=model.config,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            runner=runner,
            is_fallback=is_fallback,
        )

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.config.name

    @property
    def image_size(self) -> int:
        """S, the side of the model's square pictures in pixels."""
        return self.config.image_size

    @property
    def sampler(self) -> SamplerConfig:
        """How decoding is done when nobody asks for anything else."""
        return self.config.sampler
