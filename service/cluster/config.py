"""What runs on a cluster: one typed config, the ``args`` of a ``serve deploy`` file."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from flowmo.cores import usable_cores
from flowmo.model.checkpoint import inspect_checkpoint
from flowmo.model.errors import CheckpointError
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.engine.sizes import default_max_batch
from flowmo.service.http.item_feed import item_capacity
from flowmo.service.loader import resolve, with_prior
from flowmo.service.setting import problems
from flowmo.service.settings import MODEL_NAME, Settings

# Above the longest deadline: what was begun is finished before a replica goes.
DRAIN_MARGIN_SECONDS = 30.0
# Ray's proxies know the deadline's header, too, and their answer says less than the gateway's.
PROXY_MARGIN_SECONDS = 0.25
# The share of an engine's slots that autoscaling aims to keep filled.
DECODER_FILL = 0.75
ENCODER_FILL = 1.25
# Settings of a single process that are a model's here, or the proxies'.
_CONNECTIONS = {"host", "port", "grpc_port", "shared_memory", "workers"} | {
    "max_header_bytes",
    "header_seconds",
    "send_seconds",
}
_NOT_A_GATEWAYS = {*RunnerConfig.model_fields, "models", *_CONNECTIONS}
_POLICY = "flowmo.service.cluster.backlog:BacklogPolicy"


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def name_of(config: RunnerConfig) -> str:
    """The name that a checkpoint of this machine gives itself; ``default`` if it has none.

    What the replicas' machines have alone, or fetch from a hub, is ``default``.
    """
    if "/" in config.checkpoint and not Path(config.checkpoint).is_dir():
        return "default"
    try:
        folder = resolve(config)
    except CheckpointError:
        return "default"
    name = inspect_checkpoint(folder).config.name
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
        "Engines only.",
    )
    upscale_delay_seconds: float = Field(default=10.0, ge=0)
    downscale_delay_seconds: float = Field(default=300.0, ge=0)

    def options(
        self, *, target: float, max_ongoing: int, max_queued: int, drain_seconds: float
    ) -> dict[str, Any]:
        """Options of a Ray Serve deployment.

        Args:
            target: requests a replica at which the number of replicas is right.
            max_ongoing: most requests inside a replica.
            max_queued: most requests that wait, in each process that sends them, for a replica
                that has fewer than ``max_ongoing``.
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
            "max_queued_requests": max_queued,
            # As our own refusals; of what it waits for Ray knows nothing.
            "backpressure_config": {"status_code": 429, "retry_after_s": 1},
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


class ModelConfig(RunnerConfig):
    """One model: how it is loaded and computed, and the replicas of its engines.

    Those of a generator are there where it has a prior.
    """

    encoder: Scaling = Scaling()
    decoder: Scaling = Scaling()
    generator: Scaling = Scaling()

    @property
    def engines(self) -> tuple[Scaling, ...]:
        """The replicas of each engine that there is."""
        generator = () if self.prior is None else (self.generator,)
        return (self.encoder, self.decoder, *generator)

    def slots(self, scaling: Scaling) -> int:
        """Rows of the largest batch of a replica."""
        return self.max_batch or default_max_batch("cuda" if scaling.num_gpus else "cpu")


Name = Annotated[str, StringConstraints(pattern=MODEL_NAME)]


class ClusterConfig(_Config):
    """Everything: the gateway's replicas and limits, and the models, the first the default."""

    models: Mapping[Name, ModelConfig] = Field(min_length=1)
    gateway: Scaling = Scaling(target_ongoing_requests=100)
    settings: Mapping[str, Any] = Field(
        default={}, description="Limits of each gateway, by the names of docs/settings.md."
    )

    @model_validator(mode="after")
    def _limits_are_known(self) -> Self:
        if elsewhere := sorted(_NOT_A_GATEWAYS.intersection(self.settings)):
            raise ValueError(
                f"settings.{elsewhere[0]}: a gateway computes nothing and holds no "
                f"connections; set it in models.NAME, in http_options or at the edge"
            )
        try:
            self.gateway_settings()
        except ValidationError as error:
            raise ValueError("; ".join(problems(error, Settings, within="settings."))) from None
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
        own = {
            "deadline_margin_seconds": PROXY_MARGIN_SECONDS,
            "max_queued_requests": self._queue_share(),
        }
        return Settings(**{**own, **self.settings})

    def _queue_share(self) -> int:
        """The pictures that one gateway may have in the queues of the fewest engines there are.

        With it as their limit, items of batches leave room for single pictures in the engines'
        queues, whatever gateways they came by.
        """
        gateways = max(self.gateway.min_replicas, self.gateway.max_replicas)
        rooms = [
            model.max_queued_requests * min(engine.min_replicas for engine in model.engines)
            for model in self.models.values()
        ]
        return max(1, min(rooms) // gateways)

    @property
    def calls_of_gateway(self) -> int:
        """The most pictures that one gateway ever gives to replicas at the same time."""
        settings = self.gateway_settings()
        items = item_capacity(settings.max_queued_requests, settings.max_concurrent_requests)
        return settings.max_concurrent_requests + items

    @property
    def drain_seconds(self) -> float:
        """What a replica may take to finish: more than any request."""
        return self.gateway_settings().max_deadline_seconds + DRAIN_MARGIN_SECONDS

    @classmethod
    def of_settings(cls, settings: Settings, *, cpus: float | None = None) -> Self:
        """One machine's cluster with the models and limits of a single process.

        Args:
            settings: The settings of ``flowmo serve``.
            cpus: Processors of the machine, shared out among the replicas; all by default.
        """
        configs = {name: settings.runner_config(source) for name, source in settings.models.items()}
        if not configs:
            config = settings.runner_config()
            configs = {name_of(config): config}
        elif settings.prior is not None:
            configs = with_prior(configs, settings.prior)
        # Half of the machine, so that a rolling update has room for new replicas beside the old.
        generators = sum(config.prior is not None for config in configs.values())
        replicas = 2 * len(configs) + generators + 1
        share = math.floor(100 * (cpus or usable_cores()) / (2 * replicas)) / 100
        scaling = Scaling(num_cpus=share)
        models = {
            name: ModelConfig(
                **config.model_dump(), encoder=scaling, decoder=scaling, generator=scaling
            )
            for name, config in configs.items()
        }
        limits = settings.model_dump(exclude=_NOT_A_GATEWAYS)
        if not settings.deadline_margin_seconds:
            del limits["deadline_margin_seconds"]  # a cluster's default is another
        return cls(models=models, gateway=scaling, settings=limits)
