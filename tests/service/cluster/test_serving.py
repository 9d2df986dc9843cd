"""Which cluster ``flowmo serve`` serves on."""

import os
from typing import Any

import pytest
import ray

from flowmo.service.cluster.config import ClusterConfig, ModelConfig
from flowmo.service.cluster.serving import run


@pytest.mark.parametrize(("variables", "address"), [
    ({}, "local"),
    ({"RAY_ADDRESS": ""}, "local"),
    ({"RAY_ADDRESS": "192.0.2.1:6379"}, "192.0.2.1:6379"),
])  # fmt: skip
def test_a_cluster_that_happens_to_run_here_is_joined_only_when_named(
    variables: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(address: str | None = None, **_: Any) -> None:
        raise ConnectionError(address)

    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(ray, "init", init)
    config = ClusterConfig(models={"tiny": ModelConfig(checkpoint="tiny")})
    with pytest.raises(ConnectionError, match=f"^{address}$"):
        run(lambda: config, "127.0.0.1", 0, announce=lambda: None)
