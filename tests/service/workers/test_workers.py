"""``flowmo serve --workers 2``: real gateways, a real engine process, and what kills them."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.cli.server_process import ServerError, ServerProcess
from flowmo.model.container import MEDIA_TYPE
from flowmo.service.engine.runner import Runner
from flowmo.service.http.keys import digest_of, new_key
from tests.service.pictures import as_file, from_file, gradient
from tests.service.probes import samples, value, wait_for
from tests.service.runners import Gated, client_of

PNG = as_file(gradient())
WORKERS = 2
KEY, LIMITED = new_key(), new_key()
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
TOKENS = AUTHORIZATION | {"Content-Type": MEDIA_TYPE}


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that a test may exchange."""
    return Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("workers") / "model"))


@pytest.fixture(scope="module")
def log(folder: Path) -> Path:
    return folder.with_name("server.log")


@pytest.fixture(scope="module")
def workers(folder: Path, log: Path) -> Iterator[ServerProcess]:
    keys = folder.with_name("keys.toml")
    keys.write_text(
        f'[ours]\nsha256 = "{digest_of(KEY)}"\n'
        f'[limited]\nsha256 = "{digest_of(LIMITED)}"\nrate = 0.001\nburst = 5\n'
    )
    arguments = [
        f"--checkpoint={folder}",
        f"--workers={WORKERS}",
        f"--api-keys-file={keys}",
        "--threads=1",
        "--cache-bytes=0",
        "--log-format=json",
    ]
    with ServerProcess(arguments, log=log) as process:
        yield process
    assert "Traceback" not in log.read_text()


@pytest.fixture
def client(workers: ServerProcess) -> Iterator[httpx.Client]:
    """Each request on a connection of its own, so that any gateway may get it."""
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(
        base_url=workers.url, timeout=60, limits=limits, headers=AUTHORIZATION
    ) as made:
        yield made


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def processes(workers: ServerProcess, kind: str) -> list[int]:
    """The ids of the server's processes of a kind, ``engine`` or ``gateway``."""
    children = Path(f"/proc/{workers.pid}/task/{workers.pid}/children").read_text().split()
    command = f"{kind}_process".encode()
    return [int(pid) for pid in children if command in Path(f"/proc/{pid}/cmdline").read_bytes()]


def decode(client: httpx.Client, container: bytes, **params: int) -> httpx.Response:
    """Decode, again on another connection if the one it had was lost: it is pure."""
    for _ in range(20):
        try:
            return client.post("/v1/detokenize", content=container, headers=TOKENS, params=params)
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("no connection lasted")


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


# --- answers ------------------------------------------------------------------------------------


def test_answers_are_those_of_one_process(
    client: httpx.Client, runner: Runner, container: bytes
) -> None:
    def asked(path: str) -> dict[str, Any]:
        return {"url": path, "content": PNG, "headers": {"Content-Type": "image/png"}}

    async def alone(path: str) -> httpx.Response:
        async with client_of(Gated(runner)) as one:
            return await one.post(**asked(path))

    for path in ("/v1/tokenize", "/v1/reconstruct?seed=7&steps=3"):
        here, there = client.post(**asked(path)), asyncio.run(alone(path))
        assert (here.status_code, there.status_code) == (200, 200)
        kept = {"content-type", "flowmo-fingerprint", "flowmo-model", "flowmo-steps", "flowmo-seed"}
        assert {k: v for k, v in here.headers.items() if k in kept} == {
            k: v for k, v in there.headers.items() if k in kept
        }
        if path == "/v1/tokenize":
            assert here.json()["tokens"] == there.json()["tokens"]
        else:
            difference = np.abs(from_file(here.content).astype(int) - from_file(there.content))
            assert (difference <= 1).mean() >= 0.999
    # With progress and previews, too.
    url = "/v1/detokenize?steps=3&seed=5&stream=true&previews=2"
    streamed = client.post(url, content=container, headers=TOKENS)
    names = [line[7:] for line in streamed.text.splitlines() if line.startswith("event: ")]
    assert names == ["progress", "progress", "preview", "progress", "image"]


def test_both_gateways_answer_and_their_metrics_are_one(
    client: httpx.Client, log: Path, container: bytes
) -> None:
    labels = {"method": "POST", "route": "/v1/detokenize", "status": "200"}
    before = value(client, "flowmo_request_duration_seconds_count", **labels)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: decode(client, container, seed=seed), range(40)))
    assert {answer.status_code for answer in answers} == {200}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    answered = [line["worker"] for line in lines if line.get("route") == "/v1/detokenize"]
    assert set(answered) == {"gateway-1", "gateway-2"}
    for _ in range(4):  # whoever is scraped
        found = samples(client)
        name = "flowmo_request_duration_seconds_count"
        assert found[(name, tuple(sorted(labels.items())))] == before + 40
        assert found[("flowmo_requests_capacity", ())] == 64  # as one process has
        assert found[("flowmo_ready", (("model", "nano"),))] == 1
        assert found[("flowmo_step_duration_seconds_count", (("model", "nano"),))] >= 4
        named = {dict(labels)["process"] for name, labels in found if name.startswith("process_")}
        assert named == {"engine", "gateway-1", "gateway-2"}


def test_a_keys_rate_holds_for_all_gateways_together(client: httpx.Client) -> None:
    limited = {"Authorization": f"Bearer {LIMITED}"}
    with ThreadPoolExecutor(8) as pool:
        asked = pool.map(lambda _: client.get("/v1/models", headers=limited).status_code, range(30))
        codes = list(asked)
    assert (codes.count(200), codes.count(429)) == (5, 25)


def test_cancellation_reaches_the_engine_from_whichever_gateway(
    client: httpx.Client, container: bytes
) -> None:
    labels = {"model": "nano", "engine": "decoder"}
    before = value(client, "flowmo_engine_cancelled_total", **labels)
    with ThreadPoolExecutor(4) as pool:
        headers = [TOKENS | {"X-Request-ID": f"far-{number}"} for number in range(4)]
        answers = [
            pool.submit(
                client.post, "/v1/detokenize", content=container, headers=one,
                params={"steps": 1000, "seed": number, "guidance": 3.0},
            )
            for number, one in enumerate(headers)
        ]  # fmt: skip
        for number in range(4):
            url = f"/v1/requests/far-{number}/cancel"
            until(lambda url=url: client.post(url).status_code == 200)  # type: ignore[misc]
        assert [answer.result().json()["code"] for answer in answers] == ["cancelled"] * 4
    wait_for(client, "flowmo_engine_cancelled_total", before + 4, **labels)
    assert client.post("/v1/requests/nobody/cancel").status_code == 404


# --- what dies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gateway", "engine"])
def test_what_is_killed_under_load_is_replaced_and_every_request_answered(
    workers: ServerProcess, client: httpx.Client, container: bytes, kind: str
) -> None:
    right = from_file(decode(client, container, seed=1, steps=20).content).astype(int)
    (*_, victim) = before = processes(workers, kind)
    with ThreadPoolExecutor(8) as pool:
        answers = [
            pool.submit(decode, client, container, seed=1, steps=20 if n % 2 else 200)
            for n in range(16)
        ]
        wait_for(client, "flowmo_queue_depth", 1, model="nano")
        os.kill(victim, signal.SIGKILL)
        for number, answer in enumerate(answers):
            told = answer.result()
            if told.status_code == 200:
                if number % 2:
                    difference = np.abs(from_file(told.content) - right)
                    assert (difference <= 1).mean() >= 0.999
                continue
            assert kind == "engine"  # the engine does not notice that a gateway dies
            assert (told.status_code, told.json()["code"]) == (503, "not-ready")
            assert 1 <= int(told.headers["Retry-After"]) <= 120
    until(lambda: len(processes(workers, kind)) == len(before))
    assert victim not in processes(workers, kind)
    until(lambda: all(is_ready(client) for _ in range(8)))
    assert decode(client, container, seed=1, steps=20).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_a_hangup_loads_the_model_again_for_all_gateways(
    workers: ServerProcess, client: httpx.Client, folder: Path, other_checkpoint: Path
) -> None:
    def fingerprints() -> set[str]:
        return {client.get("/v1/models").json()["models"][0]["fingerprint"] for _ in range(8)}

    (old,) = fingerprints()
    for file in other_checkpoint.iterdir():
        shutil.copy(file, folder / file.name)
    os.kill(workers.pid, signal.SIGHUP)
    until(lambda: old not in fingerprints())
    assert len(fingerprints()) == 1
    answer = client.post("/v1/reconstruct", content=PNG, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200


# The last one of these: it ends the server.
def test_a_stopping_server_finishes_what_it_has(
    workers: ServerProcess, client: httpx.Client, log: Path
) -> None:
    (engine,) = processes(workers, "engine")
    os.kill(engine, signal.SIGSTOP)  # until all are inside
    with ThreadPoolExecutor(4) as pool:
        answers = [
            pool.submit(
                client.post, "/v1/reconstruct", content=PNG,
                headers={"Content-Type": "image/png"}, params={"steps": 300, "seed": seed},
            )
            for seed in range(4)
        ]  # fmt: skip
        try:
            wait_for(client, "flowmo_requests_admitted", 4)
        finally:
            os.kill(engine, signal.SIGCONT)
        left = [*processes(workers, "gateway"), *processes(workers, "engine")]
        assert len(left) == WORKERS + 1
        assert workers.stop() == -signal.SIGTERM
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    assert "Finished server process" in log.read_text()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workers=0"], "--workers (FLOWMO_WORKERS): expected an integer from 1 to 64, got '0'"),
        (["--workers=two"], "expected an integer from 1 to 64, got 'two'"),
        (["--workers=2", "--ray"], "--workers 2 is of one machine without Ray"),
        (["--workers=2", "--grpc-port=0"], "--grpc-port is of one process"),
        (["--workers=2", "--shared-memory"], "--shared-memory is of one process"),
        (["--workers=3", "--max-concurrent-requests=2"], "each needs one at least"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], expected: str) -> None:
    result = CliRunner(env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"}).invoke(
        app, ["serve", *arguments]
    )
    assert result.exit_code == 2
    assert expected in " ".join(result.output.split())


def test_a_server_that_cannot_start_says_why_and_ends(tmp_path: Path) -> None:
    arguments = [f"--checkpoint={tmp_path / 'nothing'}", "--workers=2"]
    with (
        pytest.raises(ServerError, match="nothing"),
        ServerProcess(arguments, log=tmp_path / "server.log"),
    ):
        pass
