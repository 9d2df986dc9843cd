"""Scaling by work: the policy's arithmetic, and that Ray takes it."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig

from flowmo.service.cluster.backlog import BACKLOG, WORK, BacklogPolicy, WorkShare
from flowmo.service.cluster.config import ClusterConfig, Scaling


def wanted(metrics: dict[str, dict[str, float]] | None, *, target: int = 2) -> float:
    context: Any = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=target)
    return BacklogPolicy(target_seconds=2.0)(context)[0]


@pytest.mark.parametrize(
    ("backlog", "work", "expected"),
    [
        ({"a": 6.0, "b": 1.0}, {"a": 0.1, "b": 0.1}, 3.5),  # work is piled up
        ({"a": 0.0, "b": 0.0}, {"a": 0.8, "b": 0.8}, 2.0),  # none is, and both are needed
        ({"a": 0.0, "b": 0.0}, {"a": 0.3, "b": 0.1}, 0.5),  # one would do
        ({"a": 0.0}, {}, 0.0),
    ],
)
def test_wanted_is_the_larger_of_backlog_and_steady_load(
    backlog: dict[str, float], work: dict[str, float], expected: float
) -> None:
    assert wanted({BACKLOG: backlog, WORK: work}) == pytest.approx(expected)


@pytest.mark.parametrize("metrics", [None, {}, {BACKLOG: {}}])
def test_nothing_changes_before_a_replica_has_reported(metrics: Any) -> None:
    assert wanted(metrics, target=3) == 3.0


def test_the_share_is_of_the_time_since_the_last_question() -> None:
    computed, now = [10.0], [100.0]
    share = WorkShare(lambda: computed[0], clock=lambda: now[0])
    computed[0], now[0] = 11.0, 104.0
    assert share() == pytest.approx(0.25)
    now[0] = 106.0
    assert share() == 0.0


def test_ray_finds_the_policy_with_its_target() -> None:
    scaling = Scaling(max_replicas=4, target_backlog_seconds=1.5)
    options = scaling.options(target=12, max_ongoing=64, max_queued=64, drain_seconds=60)
    parsed = AutoscalingConfig(**options["autoscaling_config"])
    policy: Any = parsed.policy.get_policy()
    context: Any = SimpleNamespace(
        aggregated_metrics={BACKLOG: {"a": 3.0}, WORK: {"a": 1.0}}, target_num_replicas=1
    )
    # As Ray's controller makes it.
    assert policy(**parsed.policy.policy_kwargs)(context)[0] == pytest.approx(2.0)


def test_a_gateway_has_no_backlog() -> None:
    with pytest.raises(ValidationError, match="target_ongoing_requests"):
        ClusterConfig.model_validate(
            {"models": {"a": {}}, "gateway": {"target_backlog_seconds": 1.0}}
        )
