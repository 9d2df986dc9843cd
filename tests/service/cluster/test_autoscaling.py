"""Decoders follow the load over (fake) GPU nodes that come and go."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.serving.autoscaling import decoders
from flowmo.cli.server_process import ServerProcess
from tests.service.clusters import load, wait_until, write_config
from tests.service.fake_nodes import cluster_of_fake_nodes
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    # Not pytest's own folder: the path of a socket has at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="fm") as folder,
        cluster_of_fake_nodes(Path(folder), cpus=2, gpu_nodes=3) as environment,
    ):
        yield environment


@pytest.mark.slow  # two minutes, nearly all of it Ray's; benchmarks.serving.autoscaling does more
def test_decoders_go_from_one_to_three_and_back(
    checkpoint: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    decoder = {
        "num_cpus": 0.1,
        "num_gpus": 1,
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 2,
        "upscale_delay_seconds": 1,
        "downscale_delay_seconds": 4,
    }
    model = {
        "checkpoint": str(checkpoint),
        "device": "cpu",  # the GPUs are names only
        "threads": 1,
        "encoder": {"num_cpus": 0.1},
        "decoder": decoder,
    }
    config = {
        "models": {"scaled": model},
        "gateway": {"num_cpus": 0.1},
        "settings": {"cache_bytes": 0, "max_deadline_seconds": 120},
    }
    arguments = ["--ray-config", str(write_config(tmp_path, config))]

    def request(client: httpx.Client, number: int) -> httpx.Response:
        return client.post(
            "/v1/reconstruct",
            content=PNG,
            headers={"Content-Type": "image/png"},
            params={"steps": 200, "seed": number},
        )

    with ServerProcess(
        arguments, log=tmp_path / "server.log", environment=environment, start_seconds=120
    ) as process:
        assert decoders() == 1
        with load(process.url, request, clients=8) as answers:
            wait_until(lambda: decoders() == 3, 120)
        assert {answer.status_code for answer in answers} == {200}
        wait_until(lambda: decoders() == 1, 120)
        with httpx.Client(base_url=process.url, timeout=60) as client:
            assert request(client, 0).status_code == 200
