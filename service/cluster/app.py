"""The Ray Serve application: a gateway, and a deployment of each engine of a model."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from flowmo.service.cluster.config import (
    DECODER_FILL,
    ENCODER_FILL,
    ClusterConfig,
    ModelConfig,
    Scaling,
)
from flowmo.service.cluster.logs import configure_process_logs
from flowmo.service.cluster.metrics import RayInstruments
from flowmo.service.cluster.remote import RemoteEngines, described
from flowmo.service.cluster.replicas import DecoderReplica, EncoderReplica, GeneratorReplica
from flowmo.service.garbage import set_aside
from flowmo.service.http.app import create_app
from flowmo.service.http.cancellation import counted_together
from flowmo.service.http.form import Form
from flowmo.service.http.service import Service
from flowmo.service.models import Models
from flowmo.service.telemetry.metrics import Metrics
from flowmo.service.telemetry.tracing import export_spans

APPLICATION = "flowmo"
GATEWAY = "gateway"
# Requests that a replica takes beyond those it admits: they are answered that it is full.
_REFUSABLE = 100
_ROUTER = {
    "request_router_config": {
        "request_router_class": "flowmo.service.cluster.router:OtherReplicaRouter"
    }
}
# How long a gateway waits for what the others know of a request that is to be cancelled.
_CANCEL_SECONDS = 5.0


class Gateway:
    """The HTTP routes in front of replicas.

    Args:
        config: The whole cluster's configuration.
        encoders: Ray's handles of the encoders' deployments, by the model's name.
        decoders: Ray's handles of the decoders' deployments, by the model's name.
        generators: Ray's handles of the generators', of models that have one.
    """

    async def __init__(  # type: ignore[misc]
        self,
        config: ClusterConfig,
        encoders: Mapping[str, DeploymentHandle[Any]],
        decoders: Mapping[str, DeploymentHandle[Any]],
        generators: Mapping[str, DeploymentHandle[Any]],
    ) -> None:
        asked = (described(one, generators.get(name)) for name, one in decoders.items())
        infos = await asyncio.gather(*asked)
        self._engines = {
            name: RemoteEngines(info, encoders[name], decoders[name], generators.get(name))
            for name, info in zip(decoders, infos, strict=True)
        }
        self._settings = config.gateway_settings()
        configure_process_logs(self._settings)
        export_spans()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Make the ASGI application; called by Ray after the constructor."""
        builds = {name: partial(_same, engines) for name, engines in self._engines.items()}
        app = create_app(
            Models(builds),
            Metrics(RayInstruments(), engines_elsewhere=True),
            self._settings,
            form=Form.CLUSTER,
            cancel_elsewhere=_cancel_everywhere,
        )
        self._service: Service = app.state.service
        set_aside()
        return app

    def cancel_here(self, key: str | None, request_id: str) -> int | None:
        """Cancel what has come to this gateway; see :meth:`InsideRequests.cancel`."""
        return self._service.requests.cancel(key, request_id)


async def _cancel_everywhere(key: str | None, request_id: str) -> int | None:
    """Ask every gateway; one that does not answer has nothing to cancel, or is going anyway."""
    context = serve.get_replica_context()
    gateways = serve.get_deployment_handle(context.deployment, context.app_name)
    response = gateways.broadcast("cancel_here", key, request_id)
    found = await response.results_async(timeout_s=_CANCEL_SECONDS, return_exceptions=True)
    return counted_together([one for one in found if not isinstance(one, BaseException)])


def _same(engines: RemoteEngines) -> RemoteEngines:
    return engines


def build(config: ClusterConfig) -> Application:
    """Make the Ray Serve application, for ``serve run`` and ``serve deploy``.

    Args:
        config: The ``args`` of the application in the config file.
    """
    encoders: dict[str, Application] = {}
    decoders: dict[str, Application] = {}
    generators: dict[str, Application] = {}
    for name, model in config.models.items():

        def options(scaling: Scaling, fill: float, model: ModelConfig = model) -> dict[str, Any]:
            return scaling.options(
                target=fill * model.slots(scaling),
                max_ongoing=model.max_queued_requests + _REFUSABLE,
                # The engines' own queues refuse, and say until when; Ray's is for bursts alone.
                max_queued=config.calls_of_gateway,
                drain_seconds=config.drain_seconds,
            )

        decoder = _deployment(
            DecoderReplica, f"decoder-{name}", options(model.decoder, DECODER_FILL) | _ROUTER
        )
        encoder = _deployment(
            EncoderReplica, f"encoder-{name}", options(model.encoder, ENCODER_FILL) | _ROUTER
        )
        decoders[name] = decoder.bind(name, model)
        encoders[name] = encoder.bind(name, model, decoders[name])
        if model.prior is not None:
            own = options(model.generator, DECODER_FILL) | _ROUTER
            generator = _deployment(GeneratorReplica, f"generator-{name}", own)
            generators[name] = generator.bind(name, model)
    most = config.gateway_settings().max_concurrent_requests + _REFUSABLE
    gateway_options = config.gateway.options(
        target=100,
        max_ongoing=most,
        max_queued=most,
        drain_seconds=config.drain_seconds,
    )
    gateway = _deployment(serve.ingress()(Gateway), GATEWAY, gateway_options)
    return gateway.bind(config, encoders, decoders, generators)


def _deployment(kind: type, name: str, options: dict[str, Any]) -> Deployment:
    made: Deployment = serve.deployment(kind)  # type: ignore[assignment]
    return made.options(name=name, **options)
