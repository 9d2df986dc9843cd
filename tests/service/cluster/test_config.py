"""A cluster's limits agree with each other."""

from typing import Any

import pytest

from flowmo.service.cluster.app import build
from flowmo.service.cluster.config import ClusterConfig
from flowmo.service.http.item_feed import item_capacity


def config(queue: int = 256, *, halves: int = 2, gateways: int = 2, **settings: Any) -> Any:
    half = {"min_replicas": halves, "max_replicas": 2 * halves}
    model = {"max_queued_requests": queue, "encoder": half, "decoder": half}
    gateway = {"min_replicas": 1, "max_replicas": gateways}
    return ClusterConfig.model_validate(
        {"models": {"a": model, "b": model}, "gateway": gateway, "settings": settings}
    )


@pytest.mark.parametrize(("queue", "halves", "gateways"), [(256, 2, 2), (64, 2, 8), (1, 1, 4)])
def test_items_and_single_pictures_of_all_gateways_fit_into_the_queues(
    queue: int, halves: int, gateways: int
) -> None:
    settings = config(queue, halves=halves, gateways=gateways).gateway_settings()
    items = item_capacity(settings.max_queued_requests, settings.max_concurrent_requests)
    singles = min(settings.max_concurrent_requests, settings.max_queued_requests // 2)
    assert gateways * (items + singles) <= max(gateways, queue * halves)


def test_the_smallest_queue_of_several_models_counts() -> None:
    small = config().model_dump()
    small["models"]["b"]["max_queued_requests"] = 10
    assert ClusterConfig.model_validate(small).gateway_settings().max_queued_requests == 10


def deployments(config: ClusterConfig) -> dict[str, Any]:
    """All deployments of an application by name."""
    found: dict[str, Any] = {}
    stack: list[Any] = [build(config)]
    while stack:
        node = stack.pop()._bound_deployment
        found[node.name] = node
        for argument in (*node.init_args, *node.init_kwargs.values()):
            inner = argument.values() if isinstance(argument, dict) else [argument]
            stack += [one for one in inner if hasattr(one, "_bound_deployment")]
    return found


def test_a_model_with_a_prior_has_a_deployment_of_generators() -> None:
    values = config().model_dump()
    values["models"]["b"] |= {
        "prior": "prior/",
        "generator": {"min_replicas": 1, "max_replicas": 3, "target_backlog_seconds": 2.0},
    }
    found = deployments(ClusterConfig.model_validate(values))
    assert found.keys() - deployments(config()).keys() == {"generator-b"}
    scaling = found["generator-b"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    # The gateway's items leave room in the queue of whichever engine has fewest replicas.
    share = ClusterConfig.model_validate(values).gateway_settings().max_queued_requests
    assert share == config().gateway_settings().max_queued_requests // 2


def test_ray_holds_what_gateways_admit_and_no_more() -> None:
    cluster = config(100, max_concurrent_requests=50)
    found = deployments(cluster)
    assert set(found) == {"gateway", "encoder-a", "encoder-b", "decoder-a", "decoder-b"}
    for name, deployment in found.items():
        assert deployment.max_queued_requests > 0, name
        # The engine's own queue, or the gateway's limiter, refuses first, and says until when.
        own = 50 if name == "gateway" else 100
        assert deployment.max_ongoing_requests > own
    # A gateway never has more work at once than may wait for a replica: Ray refuses none of it.
    items = item_capacity(cluster.gateway_settings().max_queued_requests, 50)
    assert found["decoder-a"].max_queued_requests == 50 + items
