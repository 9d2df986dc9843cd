"""Two gateways and their replicas on a real Ray cluster of this machine, with API keys."""

import base64
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.chaos.processes import kill_one, replicas
from benchmarks.prometheus import Prometheus
from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE
from flowmo.model.inference import InferenceModel
from flowmo.service.http.keys import digest_of
from tests.service.clusters import (
    SMALL,
    client_of,
    config_of,
    load,
    metrics_target,
    scrape,
    wait_until,
    write_config,
)
from tests.service.monitoring import documented, exported, recorded, without_data
from tests.service.pictures import as_file, from_file, gradient

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}
PACKED = {"Content-Type": MEDIA_TYPE}
KEY = "fmk_a-key-of-this-test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(checkpoint: Path, prior_checkpoint: Path, folder: Path) -> Iterator[ServerProcess]:
    keys = folder / "keys.toml"
    keys.write_text(f'[team]\nsha256 = "{digest_of(KEY)}"\n')
    config = two_gateways(checkpoint)
    config["models"]["nano"] |= {"prior": str(prior_checkpoint), "generator": {"num_cpus": 0.1}}
    path = write_config(folder, config)
    # Relative to the folder of the command, which is not that of the gateways.
    arguments = ["--ray-config", str(path), f"--api-keys-file={os.path.relpath(keys)}"]
    with ServerProcess(arguments, log=folder / "server.log", start_seconds=240) as process:
        yield process


def two_gateways(checkpoint: Path) -> dict[str, Any]:
    return config_of(checkpoint) | {"gateway": SMALL}


@pytest.fixture(scope="module")
def ray_http(cluster: ServerProcess) -> Iterator[httpx.Client]:
    with client_of(cluster.url, KEY) as client:
        yield client


def reconstruct(client: httpx.Client, number: int) -> httpx.Response:
    return client.post(
        "/v1/reconstruct", content=PNG, headers=RAW, params={"seed": number, "steps": 25}
    )


def statuses(answers: list[httpx.Response]) -> set[int]:
    return {answer.status_code for answer in answers}


def test_there_and_back_is_as_in_one_process(
    ray_http: httpx.Client, http: httpx.Client, inference_model: InferenceModel
) -> None:
    (model,) = ray_http.get("/v1/models").json()["models"]
    assert (model["name"], model["fingerprint"]) == ("nano", inference_model.fingerprint)
    for answer in (ray_http.get("/readyz"), ray_http.get("/healthz")):
        assert answer.status_code == 200
    headers = RAW | {"Accept": MEDIA_TYPE, "X-Request-ID": "mine"}
    packed = ray_http.post("/v1/tokenize", content=PNG, headers=headers)
    assert packed.headers["X-Request-ID"] == "mine"
    alone = http.post("/v1/tokenize", content=PNG, headers=headers)
    assert packed.content == alone.content
    params = {"seed": 3, "guidance": 2.0}
    pictures = [
        client.post("/v1/detokenize", content=packed.content, headers=PACKED, params=params)
        for client in (ray_http, http)
    ]
    one, other = (from_file(picture.content).astype(int) for picture in pictures)
    assert (np.abs(one - other) <= 1).mean() >= 0.999
    stages = pictures[0].headers["Server-Timing"]
    assert "queue" in stages
    assert "sample" in stages
    # One of several gateways would show its own share only.
    assert ray_http.get("/metrics").status_code == 404


def test_a_picture_of_many_tiles_is_as_in_one_process(
    ray_http: httpx.Client, http: httpx.Client
) -> None:
    wide = as_file(gradient(192, 32))
    packed = [
        client.post("/v1/tokenize", content=wide, headers=RAW | {"Accept": MEDIA_TYPE})
        for client in (ray_http, http)
    ]
    assert packed[0].headers["Flowmo-Tiles"] == packed[1].headers["Flowmo-Tiles"] == "8"
    assert packed[0].content == packed[1].content
    both: list[dict[str, str]] = [{"steps": "2"}, {"steps": "2", "region": "20,4,100,20"}]
    for params in both:
        one, other = (
            from_file(
                client.post(
                    "/v1/detokenize", content=packed[0].content, headers=PACKED, params=params
                ).content
            )
            for client in (ray_http, http)
        )
        assert one.shape == other.shape == ((20, 100, 3) if "region" in params else (32, 192, 3))
        assert (np.abs(one.astype(int) - other) <= 1).mean() >= 0.999


def test_a_generation_is_as_in_one_process(ray_http: httpx.Client, http: httpx.Client) -> None:
    models = [client.get("/v1/models").json()["models"][0] for client in (ray_http, http)]
    assert models[0]["prior"] == models[1]["prior"]
    wish: dict[str, str | int] = {"class": "dog", "seed": 4, "count": 2}
    made = [client.post("/v1/generate", params=wish).json() for client in (ray_http, http)]
    assert made[0] == made[1]
    streamed: dict[str, str | int] = {"class": "dog", "seed": 4, "stream": True, "previews": 2}
    events = [
        [line for line in client.post("/v1/generate", params=streamed).text.splitlines() if line]
        for client in (ray_http, http)
    ]
    names = [[line for line in one if line.startswith("event:")] for one in events]
    assert names[0] == names[1]
    last = [json.loads(one[-1].removeprefix("data: ")) for one in events]
    assert last[0]["container"] == last[1]["container"]


def families(text: str, prefix: str) -> dict[str, str]:
    """Types by name of the series in Prometheus' text format."""
    lines = (line.split() for line in text.splitlines() if line.startswith(f"# TYPE {prefix}"))
    return {name.removeprefix("ray_"): kind for _, _, name, kind in lines}


def test_the_node_exports_the_series_of_one_process(
    cluster: ServerProcess, ray_http: httpx.Client, http: httpx.Client
) -> None:
    assert reconstruct(ray_http, 0).status_code == 200
    alone = families(http.get("/metrics").text, "flowmo_")
    # Ray has no series of a counter before it has counted anything.
    silent = {
        name
        for name, kind in alone.items()
        if kind == "counter" and name != "flowmo_cache_requests_total"
    }
    expected = {name: kind for name, kind in alone.items() if name not in silent}
    found: dict[str, str] = {}

    def all_there() -> bool:  # Ray's workers report every ten seconds
        found.update(families(scrape(cluster.pid), "ray_flowmo_"))
        return expected.items() <= found.items()

    wait_until(all_there, 60)
    assert found.items() <= alone.items()
    text = scrape(cluster.pid)
    for name, label in (
        ("flowmo_backlog_seconds", 'deployment="decoder-nano"'),
        ("flowmo_step_duration_seconds_count", 'deployment="decoder-nano"'),
        ("flowmo_request_duration_seconds_count", 'deployment="gateway"'),
        ("flowmo_stage_duration_seconds_count", 'stage="sample"'),
    ):
        assert any(
            line.startswith(f"ray_{name}{{") and label in line for line in text.splitlines()
        ), name


def test_rules_and_dashboards_hold_on_ray(
    cluster: ServerProcess, ray_http: httpx.Client, container: bytes, tmp_path: Path
) -> None:
    target = metrics_target(cluster.pid)
    with Prometheus({"flowmo-ray": [target]}, tmp_path) as prometheus:
        wait_until(lambda: bool(prometheus.query("up == 1")), 20)

        empty = ["not looked at"]
        for turn in range(12):  # Ray's workers report every ten seconds
            for seed in range(4):
                assert reconstruct(ray_http, seed).is_success
                ray_http.post("/v1/detokenize", content=container, headers=PACKED)
                query = f"class=dog&seed={4 * turn + seed}"
                assert ray_http.post(f"/v1/generate?{query}").is_success
            time.sleep(4)
            empty = without_data(
                prometheus, job="flowmo-ray", have={"service", "prior", "ray"}, rate_interval="1m"
            )
            if not empty:
                break
        assert not empty, "\n".join(empty)
        assert prometheus.rule_problems() == {}
        names = {one["metric"]["__name__"] for one in prometheus.query('{__name__=~"flowmo:.+"}')}
        # Nothing has failed, and nobody came with a key that is not known.
        assert recorded() - names <= {
            "flowmo:pictures_failed:rate5m",
            "flowmo:keys_unknown:rate5m",
            "flowmo:quota_counted_alone:rate5m",
            # No GPU.
            "flowmo:gpus:count",
            "flowmo:cost:per_picture1h",
            "flowmo:cost:per_megapixel1h",
        }
        assert prometheus.query('flowmo:replicas_healthy:sum{deployment="decoder-nano"} == 2')
        assert prometheus.query("flowmo:answered:rate5m > 0")
    table = documented()
    for name, found in exported(scrape(cluster.pid)).items():
        assert found == table[name], name


def test_streams_batches_and_refusals_cross_replicas(
    ray_http: httpx.Client, container: bytes
) -> None:
    answer = ray_http.post(
        "/v1/detokenize",
        content=container,
        headers=PACKED,
        params={"stream": True, "steps": 4, "previews": 2},
    )
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == ["progress", "progress", "preview", "progress", "progress", "image"]
    batch = ray_http.post(
        "/v1/reconstruct/batch", files=[("item", ("a", PNG)), ("item", ("b", b"no"))]
    )
    assert [item["status"] for item in batch.json()["items"]] == [200, 415]
    late = ray_http.post(
        "/v1/detokenize",
        content=container,
        headers=PACKED | {"X-Request-Timeout-Seconds": "0.5"},
        params={"steps": 1000, "guidance": 3.0},
    )
    assert late.status_code in (429, 504), late.text  # by its load, if the machine is quick
    assert late.headers["Content-Type"] == "application/problem+json"
    misfit = ray_http.post("/v1/detokenize", json={"tokens": {"ids": [[1, 2, 3]]}})
    assert (misfit.status_code, misfit.json()["code"]) == (422, "invalid-tokens")
    unknown = ray_http.post("/v1/tokenize", content=PNG, headers=RAW, params={"model": "lo"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-model")


def test_a_request_is_cancelled_through_whichever_gateway_is_told(
    ray_http: httpx.Client, container: bytes
) -> None:
    def decode(number: int) -> httpx.Response:
        return ray_http.post(
            "/v1/detokenize",
            content=container,
            params={"steps": 1000, "seed": number},
            headers=PACKED | {"X-Request-ID": f"far-{number}"},
        )

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(decode, number) for number in range(6)]
        for number in range(6):
            told: list[httpx.Response] = []

            def is_found(number: int = number, told: list[httpx.Response] = told) -> bool:
                told.append(ray_http.post(f"/v1/requests/far-{number}/cancel"))
                return told[-1].status_code == 200

            wait_until(is_found, 30.0)
            assert told[-1].json()["cancelled"] == 1
        answers = [each.result() for each in asked]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {
        (499, "cancelled")
    }
    unknown = ray_http.post("/v1/requests/nobody/cancel")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-request")


def test_keys_of_the_command_line_are_asked_for_by_gateways(cluster: ServerProcess) -> None:
    found = []
    for key in (None, "another", KEY):
        with client_of(cluster.url, key) as client:
            found.append(client.get("/v1/models").status_code)
    assert found == [401, 401, 200]


def test_eight_full_batches_fit_although_the_queues_do_not_hold_them(
    ray_http: httpx.Client, container: bytes
) -> None:
    item = {"container": base64.b64encode(container).decode()}

    def batch(number: int) -> httpx.Response:
        items = [item | {"seed": 64 * number + index} for index in range(64)]
        return ray_http.post("/v1/detokenize/batch", json={"items": items, "steps": 1})

    with ThreadPoolExecutor(8) as pool:
        answers = [answer.json() for answer in pool.map(batch, range(8))]
    assert [answer["succeeded"] for answer in answers] == [64] * 8, answers[0]["items"][:2]


@pytest.mark.parametrize("deployment", ["encoder-nano", "decoder-nano"])
def test_a_killed_replica_costs_no_request(cluster: ServerProcess, deployment: str) -> None:
    before = set(replicas(deployment, cluster.pid))
    assert len(before) == 2
    with load(cluster.url, reconstruct, key=KEY) as answers:
        dead = kill_one(deployment, cluster.pid)
        wait_until(lambda: len(set(replicas(deployment, cluster.pid)) - {dead}) == 2)
    assert statuses(answers) == {200}


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    document: dict[str, Any] = answer.json()
    assert document["status"] == answer.status_code
    return document


def test_what_the_proxy_answers_for_a_gateway_is_a_problem(
    cluster: ServerProcess, ray_http: httpx.Client, container: bytes
) -> None:
    def ask(seconds: float) -> httpx.Response:
        headers = RAW | {"X-Request-Timeout-Seconds": str(seconds), "X-Request-ID": "mine"}
        return ray_http.post("/v1/reconstruct", content=PNG, headers=headers, params=long)

    long: dict[str, Any] = {"steps": 1000, "guidance": 2.0}

    def send(number: signal.Signals) -> None:
        for gateway in gateways:
            os.kill(gateway, number)

    gateways = replicas("gateway", cluster.pid)
    assert len(gateways) == 2
    send(signal.SIGSTOP)  # they do not answer, so that the proxy's own time runs out
    try:
        late = ask(1.5)
    finally:
        send(signal.SIGCONT)
    assert (late.status_code, problem_of(late)["code"]) == (504, "deadline-exceeded")
    assert problem_of(late)["instance"] == "urn:flowmo:request:mine"
    assert late.headers["X-Request-ID"] == "mine"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, 60)
        threading.Event().wait(0.5)
        # It came before this one, whose first step is made: gateways have both for some seconds.
        with ray_http.stream(
            "POST",
            "/v1/detokenize",
            content=container,
            headers=PACKED,
            params=long | {"stream": True},
        ) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: progress"
            send(signal.SIGKILL)
            *_, name, data = (line for line in lines if line)
        lost = asked.result()
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["code"] == "gateway-lost"
    assert (lost.status_code, problem_of(lost)["code"]) == (503, "gateway-lost")
    assert int(lost.headers["Retry-After"]) >= 1
    wait_until(lambda: ray_http.get("/readyz").is_success, 60)


def test_overload_is_refused_and_nothing_breaks(ray_http: httpx.Client, container: bytes) -> None:
    def ask(seed: int, seconds: float = 60.0) -> httpx.Response:
        return ray_http.post(
            "/v1/detokenize",
            content=container,
            headers=PACKED | {"X-Request-Timeout-Seconds": str(seconds)},
            params={"seed": seed, "steps": 200},
        )

    begin = time.perf_counter()
    assert ask(0).status_code == 200
    # A deadline that several of them can meet, but never all.
    seconds = 3.0 + 8 * (time.perf_counter() - begin)
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(ask, range(96), itertools.repeat(seconds)))
    assert statuses(answers) <= {200, 429, 504}
    assert all(problem_of(answer) for answer in answers if answer.is_error)
    assert 200 in statuses(answers), {answer.text for answer in answers}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["code"] in ("deadline-unreachable", "queue-full")
    assert ask(0).status_code == 200


def fingerprint(client: httpx.Client) -> str:
    return str(client.get("/v1/models").json()["models"][0]["fingerprint"])


def _everybody(ancestor: int) -> set[int]:
    parts = ("gateway", "encoder-nano", "decoder-nano")
    return {pid for part in parts for pid in replicas(part, ancestor)}


def test_a_rolling_redeploy_costs_no_request(
    cluster: ServerProcess, folder: Path, ray_http: httpx.Client, other_checkpoint: Path
) -> None:
    before, old = fingerprint(ray_http), _everybody(cluster.pid)

    def is_over() -> bool:
        now = _everybody(cluster.pid)
        return len(now) == len(old) and not now & old and fingerprint(ray_http) != before

    with load(cluster.url, reconstruct, key=KEY) as answers:
        write_config(folder, two_gateways(other_checkpoint))
        os.kill(cluster.pid, signal.SIGHUP)
        wait_until(is_over, 240)
    assert statuses(answers) == {200}
    # Each picture was made by one model, from its encoding on, and the last ones by the new one.
    seen = {answer.headers["Flowmo-Fingerprint"] for answer in answers}
    pictures = {(answer.headers["Flowmo-Seed"], answer.content) for answer in answers}
    assert len(seen) == 2
    assert len(pictures) == 2 * 4
    after = answers[-1].headers["Flowmo-Fingerprint"]
    assert {before, after} == seen
    wait_until(lambda: fingerprint(ray_http) == after)


def test_what_was_begun_is_finished_at_the_end(cluster: ServerProcess) -> None:
    def ask(seed: int) -> httpx.Response:
        with client_of(cluster.url, KEY) as client:
            return client.post(
                "/v1/reconstruct", content=PNG, headers=RAW, params={"seed": seed, "steps": 400}
            )

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, seed) for seed in range(4)]
        with client_of(cluster.url, KEY) as client:
            # Theirs have been admitted when one that came later is answered.
            assert reconstruct(client, 9).status_code == 200
        os.kill(cluster.pid, signal.SIGTERM)
        assert statuses([answer.result() for answer in asked]) == {200}
    assert cluster.wait(120) == 0
