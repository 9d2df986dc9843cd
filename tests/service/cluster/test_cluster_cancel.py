"""A request is cancelled by its id through whichever gateway the cancellation comes to."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE
from tests.service.clusters import config_of, wait_until, write_config

REQUESTS = 6


def test_each_gateway_finds_what_came_to_the_other(
    checkpoint: Path, container: bytes, tmp_path: Path
) -> None:
    config = config_of(checkpoint)
    config["gateway"] = {"num_cpus": 0.1, "min_replicas": 2, "max_replicas": 2}
    path = write_config(tmp_path, config)
    arguments = ["--ray-config", str(path)]
    with (
        ServerProcess(arguments, log=tmp_path / "server.log", start_seconds=240) as process,
        ThreadPoolExecutor(REQUESTS) as pool,
    ):

        def decode(number: int) -> httpx.Response:
            return httpx.post(
                f"{process.url}/v1/detokenize",
                content=container,
                params={"steps": 1000, "seed": number},
                headers={"Content-Type": MEDIA_TYPE, "X-Request-ID": f"far-{number}"},
                timeout=120,
            )

        answers = [pool.submit(decode, number) for number in range(REQUESTS)]
        for number in range(REQUESTS):
            url = f"{process.url}/v1/requests/far-{number}/cancel"
            told: list[httpx.Response] = []

            def is_found(url: str = url, told: list[httpx.Response] = told) -> bool:
                told.append(httpx.post(url, timeout=60))
                return told[-1].status_code == 200

            wait_until(is_found, 30.0)
            assert told[-1].json()["cancelled"] == 1
        for answer in answers:
            assert (answer.result().status_code, answer.result().json()["code"]) == (
                499,
                "cancelled",
            )
        unknown = httpx.post(f"{process.url}/v1/requests/nobody/cancel", timeout=60)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-request")
