"""Health, metrics, overload, disconnects and shutdown, on real server processes."""

import asyncio
import base64
import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from flowmo.cli.server_process import ServerError, ServerProcess
from flowmo.model.container import MEDIA_TYPE
from flowmo.model.inference import InferenceModel
from flowmo.service.engine.runner import Runner
from tests.service.fixtures import prior_config
from tests.service.pictures import as_file, from_file, gradient
from tests.service.probes import detokenize_by_socket, samples, value, wait_for
from tests.service.runners import Gated, client_of

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}


# --- the running server -------------------------------------------------------------------------


def test_health_and_readiness(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}


def test_models_are_described(http: httpx.Client, inference_model: InferenceModel) -> None:
    (model,) = http.get("/v1/models").json()["models"]
    prior = prior_config(inference_model.fingerprint)
    assert len(model["prior"].pop("fingerprint")) == 32
    assert model == {
        "prior": {
            "name": "nano-prior",
            "classes": 2,
            "class_names": ["cat", "dog"],
            "sampler": prior.sampler.to_dict() | {"annealing": list(prior.sampler.annealing)},
        },
        "name": "nano",
        "fingerprint": inference_model.fingerprint,
        "image_size": 32,
        "code_length": 16,
        "token_bits": 12,
        "group_bits": 4,
        "ids_per_token": 3,
        "payload_bytes": 24,
        "sampler": inference_model.config.sampler.to_dict(),
        "max_steps": 1000,
        "device": "cpu",
        "dtype": "float32",
        "runner": "torch",
        "ready": True,
    }


def test_metrics_count_requests_stages_and_steps(http: httpx.Client) -> None:
    def counts() -> dict[str, float]:
        found = samples(http)
        stage = "flowmo_stage_duration_seconds_count"
        labels = (("method", "POST"), ("route", "/v1/reconstruct"), ("status", "200"))
        return {
            "requests": found.get(("flowmo_request_duration_seconds_count", labels), 0.0),
            "steps": found[("flowmo_step_duration_seconds_count", (("model", "nano"),))],
            **{
                name: found[(stage, (("model", "nano"), ("stage", name)))]
                for name in ("decode_image", "queue", "encode", "sample", "encode_image")
            },
        }

    before = counts()
    answer = http.post("/v1/reconstruct", content=PNG, headers=RAW, params={"steps": 3})
    assert answer.status_code == 200
    grown = {name: count - before[name] for name, count in counts().items()}
    assert grown == {
        "requests": 1,
        "steps": 3,
        "decode_image": 1,
        "queue": 2,
        "encode": 1,
        "sample": 1,
        "encode_image": 1,
    }


def test_metrics_describe_the_server(http: httpx.Client, inference_model: InferenceModel) -> None:
    found = samples(http)
    model = (("model", "nano"),)
    assert found[("flowmo_requests_in_flight", ())] == 1  # the scrape itself
    assert found[("flowmo_queue_depth", model)] == 0
    assert found[("flowmo_requests_admitted", ())] == 0
    assert found[("flowmo_requests_capacity", ())] == 64
    assert found[("flowmo_ready", model)] == 1
    assert found[("flowmo_runner_fallback", model)] == 0
    for engine in ("encoder", "decoder"):
        assert 1 <= found[("flowmo_batch_slots", (("engine", engine), *model))] <= 8
    (shown,) = (dict(labels) for name, labels in found if name == "flowmo_model_info")
    assert shown["model"] == shown["name"] == "nano"
    assert shown["fingerprint"] == inference_model.fingerprint
    (build,) = (dict(labels) for name, labels in found if name == "flowmo_build_info")
    assert build.keys() == {"version", "python"}


def test_strangers_cannot_make_new_series(http: httpx.Client) -> None:
    http.get("/never/seen/1")
    before = len(samples(http))
    for number in range(20):
        http.get(f"/never/seen/{number}")
        http.request(f"ODD{number}", "/never")
        http.get("/readyz", headers={"X-Request-ID": f"id-{number}"})
    # At most the series of one new method label.
    assert len(samples(http)) - before <= 40
    assert not any("seen" in str(key) for key in samples(http))


def test_errors_are_counted_by_code(http: httpx.Client) -> None:
    before = value(http, "flowmo_errors_total", code="not-acceptable")
    http.post("/v1/tokenize", content=PNG, headers=RAW | {"Accept": "text/html"})
    assert value(http, "flowmo_errors_total", code="not-acceptable") == before + 1


def test_a_client_that_leaves_stops_its_decode(
    http: httpx.Client, server: ServerProcess, container: bytes
) -> None:
    left = {"method": "POST", "route": "/v1/detokenize", "status": "499"}
    before = value(http, "flowmo_request_duration_seconds_count", **left)
    with detokenize_by_socket(server, container, "steps=1000"):
        wait_for(http, "flowmo_requests_admitted", 1)
    wait_for(http, "flowmo_request_duration_seconds_count", before + 1, **left)
    assert value(http, "flowmo_requests_admitted") == 0
    # The device is free for others.
    assert http.post(
        "/v1/detokenize", content=container, headers={"Content-Type": MEDIA_TYPE}
    ).is_success


def test_many_clients_at_once_get_their_own_pictures(http: httpx.Client, container: bytes) -> None:
    def decode(seed: int) -> bytes:
        return http.post(
            "/v1/detokenize",
            content=container,
            headers={"Content-Type": MEDIA_TYPE},
            params={"seed": seed},
        ).content

    alone = [decode(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, range(8)))
    for one, other in zip(together, alone, strict=True):
        difference = np.abs(from_file(one).astype(int) - from_file(other))
        assert (difference <= 1).mean() >= 0.999
    assert len(set(alone)) == 8


def test_the_openapi_document_covers_all_routes(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/tokenize",
        "/v1/generate",
        "/v1/tokenize/batch",
        "/v1/detokenize/batch",
        "/v1/reconstruct/batch",
        "/v1/detokenize",
        "/v1/reconstruct",
        "/v1/models",
        "/v1/pictures/{container}",
        "/v1/requests/{id}/cancel",
        "/healthz",
        "/readyz",
        "/metrics",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        *(
            f"/v2/models/{{name}}{version}{what}"
            for version in ("", "/versions/{version}")
            for what in ("", "/ready", "/infer", "/config", "/stats")
        ),
        "/v2/models/stats",
        "/v2/repository/index",
        *(
            f"/v2/systemsharedmemory{region}/{what}"
            for region, whats in (
                ("", ("status", "unregister")),
                ("/region/{name}", ("status", "register", "unregister")),
            )
            for what in whats
        ),
        "/v2/cudasharedmemory/status",
        "/v2/cudasharedmemory/unregister",
    }
    body = document["paths"]["/v1/tokenize"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "image/jpeg"} <= set(body)
    # Every reference points at something.
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for part in text.split('"$ref": "')[1:]:
        reference = part.split('"')[0]
        assert reference.startswith("#/components/schemas/")
        assert reference.rsplit("/", 1)[1] in schemas


# --- a small server -----------------------------------------------------------------------------

BODY_SECONDS = 3


@pytest.fixture(scope="module")
def small_server(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """It admits one request, and has little patience."""
    log = tmp_path_factory.mktemp("small-server") / "server.log"
    environment = os.environ | {
        "FLOWMO_BODY_SECONDS": str(BODY_SECONDS),
        "FLOWMO_CHECKPOINT": str(checkpoint),
        "FLOWMO_MAX_STEPS": "10",
    }
    with (
        ServerProcess(["--max-concurrent-requests=1"], log=log, environment=environment) as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
    ):
        yield client


def test_a_full_server_says_when_to_come_back_and_a_slow_body_ends(
    small_server: httpx.Client,
) -> None:
    host, port = str(small_server.base_url.host), int(small_server.base_url.port or 0)
    with socket.create_connection((host, port)) as slow:
        head = (
            f"POST /v1/tokenize HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
            f"Content-Length: {len(PNG)}\r\n\r\n"
        )
        slow.sendall(head.encode() + PNG[:50])
        wait_for(small_server, "flowmo_requests_admitted", 1)
        refused = small_server.post("/v1/tokenize", content=PNG, headers=RAW)
        assert refused.status_code == 429
        assert refused.json()["code"] == "queue-full"
        assert int(refused.headers["Retry-After"]) >= 1
        # The slow body is given up after its time, and another request is admitted.
        assert b"408" in slow.recv(65536).split(b"\r\n")[0]
    assert small_server.post("/v1/tokenize", content=PNG, headers=RAW).status_code == 200


def test_the_servers_own_limit_of_steps_holds(small_server: httpx.Client) -> None:
    url = "/v1/reconstruct"
    fine = small_server.post(url, content=PNG, headers=RAW, params={"steps": 10})
    over = small_server.post(url, content=PNG, headers=RAW, params={"steps": 11})
    assert fine.status_code == 200
    assert over.status_code == 422
    assert "1 to 10" in over.json()["detail"]


# --- start and stop -----------------------------------------------------------------------------


def test_readiness_waits_for_the_warm_up(runner: Runner) -> None:
    gated = Gated(runner)
    gated.warm_up_gate.clear()

    async def main() -> None:
        async with client_of(gated, wait=False) as client:
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["code"] == "not-ready"
            assert answer.headers["Retry-After"] == "1"
            # A probe that asks early is no error.
            assert 'code="not-ready"' not in (await client.get("/metrics")).text
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/v1/models")).json()["models"][0]["ready"] is False
            # A request that comes early waits.
            early = asyncio.create_task(client.post("/v1/tokenize", content=PNG, headers=RAW))
            await asyncio.sleep(0.05)
            assert not early.done()
            gated.warm_up_gate.set()
            assert (await early).status_code == 200
            assert (await client.get("/readyz")).status_code == 200

    asyncio.run(main())


def test_a_dead_device_thread_is_unhealthy(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    gated = Gated(runner)
    gated.error = RuntimeError("no such kernel")

    async def main() -> None:
        async with client_of(gated, wait=False) as client:
            answer = await client.post("/v1/tokenize", content=PNG, headers=RAW)
            assert answer.status_code == 503
            for path in ("/healthz", "/readyz"):
                answer = await client.get(path)
                assert answer.status_code == 503
                assert answer.json()["code"] == "engine-stopped"

    asyncio.run(main())


def test_a_failing_device_is_a_500_that_tells_nothing(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    gated = Gated(runner)

    async def main() -> None:
        async with client_of(gated) as client:
            gated.error = RuntimeError("secret internals")
            answer = await client.post("/v1/tokenize", content=PNG, headers=RAW)
            assert answer.status_code == 500
            assert answer.json()["code"] == "compute-failed"
            assert "secret" not in answer.text
            assert (await client.get("/readyz")).status_code == 200
            gated.error = None
            assert (await client.post("/v1/tokenize", content=PNG, headers=RAW)).is_success

    asyncio.run(main())
    assert "secret internals" in caplog.text  # the operator sees it


def test_a_stopping_server_finishes_what_it_has(
    checkpoint: Path, container: bytes, tmp_path: Path
) -> None:
    with (
        ServerProcess([f"--checkpoint={checkpoint}"], log=tmp_path / "server.log") as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(
            client.post,
            "/v1/detokenize",
            content=container,
            headers={"Content-Type": MEDIA_TYPE},
            params={"steps": 500},
        )
        wait_for(client, "flowmo_requests_admitted", 1)
        process.stop()
        answer = running.result()
        assert answer.status_code == 200
        assert answer.headers["Flowmo-Steps"] == "500"
        with pytest.raises(httpx.ConnectError):
            client.get("/healthz")
    log = (tmp_path / "server.log").read_text()
    assert "Finished server process" in log
    assert "Traceback" not in log


def test_what_is_not_done_when_the_server_ends_is_answered_with_a_problem(
    checkpoint: Path, container: bytes, tmp_path: Path
) -> None:
    arguments = [f"--checkpoint={checkpoint}", "--drain-seconds=1"]
    item = {"container": base64.b64encode(container).decode()}
    body = {"items": [item | {"seed": seed} for seed in range(64)], "steps": 1000, "guidance": 3.0}
    with (
        ServerProcess(arguments, log=tmp_path / "server.log") as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(client.post, "/v1/detokenize/batch", json=body)
        wait_for(client, "flowmo_requests_admitted", 1)
        process.stop()
        answer = running.result()
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["code"] == "shutting-down"


def test_an_interrupt_ends_it_in_good_order(checkpoint: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with ServerProcess([f"--checkpoint={checkpoint}"], log=log) as process:
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 0
    assert "Finished server process" in log.read_text()
    assert "Abort" not in log.read_text()


def test_a_taken_port_is_told_before_anything_is_loaded(
    server: ServerProcess, checkpoint: Path, tmp_path: Path
) -> None:
    port = server.url.rsplit(":", 1)[1]
    with (
        pytest.raises(ServerError, match="cannot listen on"),
        ServerProcess(
            [f"--checkpoint={checkpoint}", f"--port={port}"], log=tmp_path / "server.log"
        ),
    ):
        pass
