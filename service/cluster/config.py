"""What runs on a cluster: one typed config, the ``args`` of a ``serve deploy`` file."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.service.engine.calls import DEFAULT_MAX_QUEUE
from flowmo.service.engine.local import EngineSettings
from flowmo.service.engine.sizes import CPU_MAX_BATCH, GPU_MAX_BATCH, TORCH
from flowmo.service.settings import DEFAULT_CHECKPOINT, MODEL_NAME, Settings

# Above the longest deadline: what was begun is finished before a replica goes.
DRAIN_MARGIN_SECONDS = 30.0
# Ray's proxies know the deadline's header, too, and their answer says less than the gateway's.
PROXY_MARGIN_SECONDS = 0.25
# The share of an engine's slots that autoscaling aims to keep filled.
DECODER_FILL = 0.75
ENCODER_FILL = 1.25
_POLICY = "flowmo.service.cluster.backlog:BacklogPolicy"


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def name_of(checkpoint: str) -> str:
    """The name that a checkpoint has itself, if it is a folder and such a name will do."""
    if not Path(checkpoint).is_dir():
        return "default"
    name = inspect_checkpoint(checkpoint).config.name
    return name if re.match(MODEL_NAME, name) else "default"


class Scaling(_Config):
    """Resources of one replica, and how many there are."""

    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    labels: Mapping[str, str] = Field(
        default={}, description="That a Ray node must have to get a replica."
    )
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float | None = Field(
        default=None, gt=0, description="A replica; from the engine's slots by default."
    )
    target_backlog_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Work that may wait in a replica: scales by work instead of requests. "
        "Encoders and decoders only.",
    )
    upscale_delay_seconds: float = Field(default=10.0, ge=0)
    downscale_delay_seconds: float = Field(default=300.0, ge=0)

    def options(self, *, target: float, max_ongoing: int, drain_seconds: float) -> dict[str, Any]:
        """Options of a Ray Serve deployment.

        Args:
            target: requests a replica at which the number of replicas is right.
            max_ongoing: most requests inside a replica.
            drain_seconds: that a replica may take to finish.
        """
        policy = {}
        if self.target_backlog_seconds is not None:
            arguments = {"target_seconds": self.target_backlog_seconds}
            policy = {"policy": {"policy_function": _POLICY, "policy_kwargs": arguments}}
        resources: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        if self.labels:
            resources["label_selector"] = dict(self.labels)
        return {
            "ray_actor_options": resources,
            # At a target of max_ongoing or more Ray would never scale up.
            "max_ongoing_requests": max(max_ongoing, int(target) + 1),
            "autoscaling_config": {
                "min_replicas": self.min_replicas,
                "max_replicas": max(self.min_replicas, self.max_replicas),
                "target_ongoing_requests": self.target_ongoing_requests or target,
                "upscale_delay_s": self.upscale_delay_seconds,
                "downscale_delay_s": self.downscale_delay_seconds,
                **policy,
            },
            "graceful_shutdown_timeout_s": drain_seconds,
            "health_check_period_s": 5.0,
            # Three in a row that do not answer: a replica that hangs is replaced within a minute.
            "health_check_timeout_s": 10.0,
        }


class ModelConfig(_Config):
    """One model: its checkpoint, and the replicas of its two halves."""

    checkpoint: str = str(DEFAULT_CHECKPOINT)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int | None = Field(default=None, ge=0)
    runner: str = TORCH
    engine_cache: Path | None = None
    build_engines: bool = False
    max_batch: int | None = Field(default=None, ge=2)
    max_queue: int = Field(default=DEFAULT_MAX_QUEUE, ge=1)
    encoder: Scaling = Scaling()
    decoder: Scaling = Scaling()

    @property
    def engine(self) -> EngineSettings:
        """How its engines work."""
        return EngineSettings(max_queue=self.max_queue)

    def slots(self, scaling: Scaling) -> int:
        """Rows of the largest batch of a replica."""
        return self.max_batch or (GPU_MAX_BATCH if scaling.num_gpus else CPU_MAX_BATCH)


Name = Annotated[str, StringConstraints(pattern=MODEL_NAME)]


class ClusterConfig(_Config):
    """Everything: the gateway's replicas and limits, and the models, the first the default."""

    models: Mapping[Name, ModelConfig] = Field(min_length=1)
    gateway: Scaling = Scaling(target_ongoing_requests=100)
    settings: Mapping[str, Any] = Field(
        default={}, description="Limits of each gateway; names as in service/settings.py."
    )

    @model_validator(mode="after")
    def _limits_are_known(self) -> Self:
        self.gateway_settings()
        if self.gateway.target_backlog_seconds is not None:
            raise ValueError(
                "gateway.target_backlog_seconds: a gateway has no engine, and scales by requests; "
                "give it target_ongoing_requests"
            )
        return self

    def gateway_settings(self) -> Settings:
        """The gateway's limits.

        Raises:
            pydantic.ValidationError: one is unknown or out of range.
        """
        return Settings(**{"deadline_margin_seconds": PROXY_MARGIN_SECONDS, **self.settings})

    @property
    def drain_seconds(self) -> float:
        """What a replica may take to finish: more than any request."""
        return self.gateway_settings().max_deadline_seconds + DRAIN_MARGIN_SECONDS

    @classmethod
    def of_settings(cls, settings: Settings, *, cpus: float | None = None) -> Self:
        """One machine's cluster with the models and limits of a single process.

        Args:
            settings: of ``flowmo serve``.
            cpus: of the machine, shared out among the replicas; all by default.
        """
        sources = settings.models or {name_of(settings.checkpoint): settings.checkpoint}
        # Half of the machine, so that a rolling update has room for new replicas beside the old.
        replicas = 2 * len(sources) + 1
        share = math.floor(100 * (cpus or os.cpu_count() or 1) / (2 * replicas)) / 100
        scaling = Scaling(num_cpus=share)
        models = {
            name: ModelConfig(
                checkpoint=checkpoint,
                device=settings.device,
                dtype=settings.dtype,
                threads=settings.threads,
                runner=settings.runner,
                engine_cache=settings.engine_cache,
                build_engines=settings.build_engines,
                max_batch=settings.max_batch,
                max_queue=settings.max_queue,
                encoder=scaling,
                decoder=scaling,
            )
            for name, checkpoint in sources.items()
        }
        limits = settings.model_dump(exclude={"models", "checkpoint", "host", "port"})
        if not settings.deadline_margin_seconds:
            del limits["deadline_margin_seconds"]  # a cluster's default is another
        return cls(models=models, gateway=scaling, settings=limits)
