"""A real Prometheus scrapes a running server under load: metrics, rules, dashboards."""

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.prometheus import Prometheus
from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE
from tests.service.clusters import wait_until
from tests.service.monitoring import (
    documented,
    documented_of_the_process,
    exported,
    families,
    recorded,
    without_data,
)
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())
PACKED = {"Content-Type": MEDIA_TYPE}
KEY = "of-a-test"
LOAD_SECONDS = 6.0
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# Of Ray Serve's series, and of GPUs'.
NOT_HERE = {"flowmo:replicas_healthy:sum", "flowmo:replicas_target:max",
            "flowmo:replicas_desired:max", "flowmo:replica_starts:increase30m",
            "flowmo:gpus:count", "flowmo:cost:per_picture1h",
            "flowmo:cost:per_megapixel1h"}  # fmt: skip


@pytest.fixture(scope="module")
def keyed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that admits few requests, and has keys."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    environment = os.environ | {"FLOWMO_API_KEYS": f"team:{digest}"}
    arguments = [f"--checkpoint={checkpoint}", "--max-concurrent-requests=4", "--threads=1"]
    log = tmp_path_factory.mktemp("keyed") / "server.log"
    with ServerProcess(arguments, log=log, environment=environment) as process:
        yield process


@pytest.fixture(scope="module")
def watched(
    keyed: ServerProcess, container: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus, after a load of all kinds."""
    target = keyed.url.removeprefix("http://")
    with Prometheus({"flowmo": [target]}, tmp_path_factory.mktemp("prometheus")) as prometheus:
        wait_until(lambda: bool(prometheus.query("up == 1")), 20)
        end = time.monotonic() + LOAD_SECONDS
        while time.monotonic() < end:
            everything_once(keyed.url, container, seed=int(1000 * end - 1000 * time.monotonic()))
        wait_until(lambda: bool(prometheus.query("flowmo:shed:ratio_rate5m > 0")), 20)
        yield prometheus


def everything_once(url: str, container: bytes, *, seed: int) -> None:
    """Requests that are answered, refused, wrong, late, left, and not allowed."""
    headers = {
        "Authorization": f"Bearer {KEY}",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:

        def decode(seed: int, steps: int = 4, **headers: str) -> int:
            return client.post(
                "/v1/detokenize",
                content=container,
                headers=PACKED | headers,
                params={"seed": seed, "steps": steps},
            ).status_code

        png = {"Content-Type": "image/png"}
        for route in ("/v1/tokenize", "/v1/reconstruct"):
            assert client.post(route, content=PNG, headers=png).status_code == 200
        assert client.post(
            "/v1/reconstruct/batch", files=[("item", ("a", PNG)), ("item", ("b", PNG))]
        ).is_success
        assert [decode(seed), decode(seed)] == [200, 200]  # the second is kept
        assert decode(seed, 1000, **{"X-Request-Timeout-Seconds": "0.001"}) in (429, 504)
        assert client.post("/v1/tokenize", content=b"no", headers=png).status_code == 415
        assert decode(seed, Authorization="Bearer nobody") == 401
        with pytest.raises(httpx.ReadTimeout):  # a client that leaves
            client.post(
                "/v1/detokenize",
                content=container,
                headers=PACKED,
                params={"seed": seed, "steps": 1000, "guidance": 3.0},
                timeout=0.2,
            )
        with ThreadPoolExecutor(8) as pool:
            statuses = set(pool.map(lambda n: decode(seed + n, 50), range(1, 9)))
        assert statuses <= {200, 429}


def test_the_documented_series_are_those_there_are(
    keyed: ServerProcess, watched: Prometheus
) -> None:
    scrape = httpx.get(f"{keyed.url}/metrics").text
    assert exported(scrape) == documented()
    own = {name for name in families(scrape) if name.startswith("process_")}
    assert own == documented_of_the_process()


def test_every_series_arrives_at_prometheus(watched: Prometheus) -> None:
    names = {one["metric"]["__name__"] for one in watched.query('{__name__=~"flowmo_.+"}')}
    for name, (kind, _) in documented().items():
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for suffix in suffixes:
            assert f"{name}{suffix}" in names


def test_latencies_lead_to_traces(watched: Prometheus) -> None:
    late = 'flowmo_request_duration_seconds_bucket{route="/v1/detokenize"}'
    assert watched.exemplar_traces(late) == {TRACE}


def test_rules_are_evaluated(watched: Prometheus) -> None:
    assert watched.rule_problems() == {}
    names = {one["metric"]["__name__"] for one in watched.query('{__name__=~"flowmo:.+"}')}
    assert names == recorded() - NOT_HERE
    (sheds,) = watched.query("flowmo:shed:ratio_rate5m")
    assert sheds["metric"]["job"] == "flowmo"
    assert 0 < float(sheds["value"][1]) < 1
    # Sheds, mistakes, and clients that leave are no errors of the service.
    assert not watched.query("flowmo:failed:ratio_rate5m > 0.5")
    assert watched.query("flowmo:answered:rate5m > 0")


def test_every_panel_of_the_service_has_data(watched: Prometheus) -> None:
    empty = without_data(watched, job="flowmo", have={"service", "keys"}, rate_interval="20s")
    assert not empty, "\n".join(empty)
