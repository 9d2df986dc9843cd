"""The models that are served, in JSON."""

from typing import Any, Self

from pydantic import Field

from flowmo.model.config import FlowMoConfig
from flowmo.service.engine.model_info import ModelInfo, PriorInfo
from flowmo.service.http.wire.message import Message


class PriorMessage(Message):
    """What generates tokens of a model."""

    name: str
    fingerprint: str
    classes: int = Field(description="How many there are; they are numbered from 0.")
    class_names: list[str] = Field(description="In order; empty where they have none.")
    sampler: dict[str, Any] = Field(description="Default steps, guidance and temperature.")

    @classmethod
    def of(cls, info: PriorInfo) -> Self:
        """Make the message of a prior."""
        config = info.config
        return cls(
            name=config.name,
            fingerprint=info.fingerprint,
            classes=config.classes,
            class_names=list(config.class_names),
            sampler=config.sampler.to_dict(),
        )


class ModelMessage(Message):
    """One model that is served."""

    name: str
    fingerprint: str
    image_size: int
    code_length: int
    token_bits: int
    group_bits: int
    ids_per_token: int
    payload_bytes: int
    sampler: dict[str, Any] = Field(description="Default time grid and guidance.")
    max_steps: int
    device: str
    dtype: str
    runner: str
    ready: bool
    prior: PriorMessage | None = Field(
        default=None, description="What POST /v1/generate generates with; null if it cannot."
    )

    @classmethod
    def of(cls, name: str, info: ModelInfo, *, max_steps: int, ready: bool) -> Self:
        """Make the message of a model that is served under a name."""
        config: FlowMoConfig = info.config
        return cls(
            name=name,
            fingerprint=info.fingerprint,
            image_size=config.image_size,
            code_length=config.code_length,
            token_bits=config.token_bits,
            group_bits=config.group_bits,
            ids_per_token=config.ids_per_token,
            payload_bytes=config.payload_bytes,
            sampler=config.sampler.to_dict(),
            max_steps=max_steps,
            device=info.device,
            dtype=info.dtype,
            runner=info.runner,
            ready=ready,
            prior=None if info.prior is None else PriorMessage.of(info.prior),
        )


class ModelsAnswer(Message):
    """All models that are served."""

    models: list[ModelMessage]
