"""Several models in one server, and their exchange while it serves."""

import asyncio
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.service.engine.calls import Call, DecodeOptions
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import UnknownModelError
from flowmo.service.loader import load_runner
from flowmo.service.models import Models
from tests.service.fixtures import cpu
from tests.service.pictures import as_file, gradient
from tests.service.probes import samples
from tests.service.runners import Gated, some_tokens, until

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}
PACKED = {"Accept": MEDIA_TYPE}


@pytest.fixture(scope="module")
def two(
    checkpoint: Path, other_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    arguments = [f"--model=first={checkpoint}", f"--model=other={other_checkpoint}", "--threads=1"]
    log = tmp_path_factory.mktemp("two") / "server.log"
    with (
        ServerProcess(arguments, log=log) as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
    ):
        yield client


def tokenize(client: httpx.Client, **params: str) -> httpx.Response:
    answer = client.post("/v1/tokenize", content=PNG, headers=RAW | PACKED, params=params)
    assert answer.status_code == 200, answer.text
    return answer


def test_each_is_found_by_its_name_and_the_first_without(two: httpx.Client) -> None:
    shown = two.get("/v1/models").json()["models"]
    assert [model["name"] for model in shown] == ["first", "other"]
    answers = {name: tokenize(two, model=name) for name in ("first", "other")}
    for (name, answer), model in zip(answers.items(), shown, strict=True):
        assert answer.headers["Flowmo-Model"] == name
        assert answer.headers["Flowmo-Fingerprint"] == model["fingerprint"]
        assert Container.from_bytes(answer.content).fingerprint == model["fingerprint"]
    assert answers["first"].content != answers["other"].content
    assert tokenize(two).content == answers["first"].content


def test_tokens_go_to_the_model_that_made_them(two: httpx.Client) -> None:
    packed = tokenize(two, model="other").content
    answer = two.post("/v1/detokenize", content=packed, headers={"Content-Type": MEDIA_TYPE})
    assert answer.headers["Flowmo-Model"] == "other"
    json = two.post("/v1/tokenize", content=PNG, headers=RAW, params={"model": "other"}).json()
    by_fingerprint = two.post("/v1/detokenize", json={"tokens": json["tokens"]})
    assert by_fingerprint.content == answer.content
    del json["tokens"]["fingerprint"]
    by_name = two.post("/v1/detokenize", json={"tokens": json["tokens"]})
    assert (by_name.headers["Flowmo-Model"], by_name.content) == ("other", answer.content)
    # Asking for another one by name is a mistake that is reported.
    wrong = two.post("/v1/detokenize", json={"tokens": {**json["tokens"]}, "model": "first"})
    assert wrong.headers["Flowmo-Model"] == "first"  # ids alone say nothing of their model
    clash = two.post(
        "/v1/detokenize",
        content=packed,
        headers={"Content-Type": MEDIA_TYPE},
        params={"model": "first"},
    )
    assert (clash.status_code, clash.json()["code"]) == (409, "container-mismatch")


@pytest.mark.parametrize("route", ["tokenize", "reconstruct"])
def test_an_unknown_model_is_a_404_with_the_list(two: httpx.Client, route: str) -> None:
    answer = two.post(f"/v1/{route}", content=PNG, headers=RAW, params={"model": "best"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-model")
    assert "served here: first, other" in answer.json()["detail"]


def test_each_has_its_own_series(two: httpx.Client) -> None:
    tokenize(two, model="other")
    found = samples(two)
    for model in ("first", "other"):
        assert ("flowmo_ready", (("model", model),)) in found
        labels = (("engine", "decoder"), ("model", model), ("reason", "deadline"))
        assert found[("flowmo_engine_refused_total", labels)] == 0
    rows = ("flowmo_batch_rows_count", (("engine", "encoder"), ("model", "other")))
    assert found[rows] >= 1


# --- loading again ------------------------------------------------------------------------------


def served(client: httpx.Client) -> str:
    return str(client.get("/v1/models").json()["models"][0]["fingerprint"])


def test_a_checkpoint_is_exchanged_under_load_without_a_failed_request(
    checkpoint: Path, other_checkpoint: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "checkpoint", tmp_path / "server.log"
    shutil.copytree(checkpoint, folder)
    arguments = [f"--checkpoint={folder}", "--threads=1", "--cache-bytes=0"]
    with (
        ServerProcess(arguments, log=log) as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
    ):
        before = served(client)
        done = threading.Event()

        def work(seed: int) -> set[str]:
            seen = set()
            with httpx.Client(base_url=process.url, timeout=60) as own:
                while not done.is_set():
                    answer = own.post(
                        "/v1/reconstruct",
                        content=PNG,
                        headers=RAW,
                        params={"seed": seed, "steps": 20},
                    )
                    assert answer.status_code == 200, answer.text
                    seen.add(answer.headers["Flowmo-Fingerprint"])
            return seen

        with ThreadPoolExecutor(4) as pool:
            try:
                workers = [pool.submit(work, seed) for seed in range(4)]
                for file in other_checkpoint.iterdir():
                    shutil.copy(file, folder / file.name)
                os.kill(process.pid, signal.SIGHUP)
                for _ in range(600):
                    if (after := served(client)) != before:
                        break
                    threading.Event().wait(0.05)
                else:
                    pytest.fail("it was not loaded again")
                tokenize(client)
            finally:
                done.set()
            seen = set().union(*(worker.result() for worker in workers))
        assert before in seen
        assert seen <= {before, after}
        shown = [
            dict(labels)["fingerprint"]
            for name, labels in samples(client)
            if name == "flowmo_model_info"
        ]
        assert shown == [after]
        # What cannot be loaded changes nothing, and the log says why.
        (folder / "config.json").write_text("{")
        os.kill(process.pid, signal.SIGHUP)
        for _ in range(600):
            if "goes on as it was" in log.read_text():
                break
            threading.Event().wait(0.05)
        else:
            pytest.fail("nothing was said")
        assert served(client) == after
        tokenize(client)


def test_what_was_begun_is_finished_by_the_model_that_began_it(
    runner: Runner, other_checkpoint: Path
) -> None:
    gated = Gated(runner)
    builds: Iterator[Runner] = iter([gated, load_runner(cpu(other_checkpoint))])

    def build() -> LocalEngines:
        found = next(builds)
        return LocalEngines(found, found)

    async def main() -> None:
        models = Models({"one": build})
        models.start()
        await until(lambda: models.ready)
        old = models.default
        options = DecodeOptions(seed=0, sampler=runner.info.sampler)
        gated.gate.clear()
        gated.entered.clear()
        decode = asyncio.create_task(old.engines.decoder.decode(some_tokens(), options, Call()))
        await until(gated.entered.is_set)
        with models.use(old):
            await models.reload(60.0)
            assert models.default.engines.info.fingerprint != old.engines.info.fingerprint
            gated.gate.set()
            assert (await decode).pixels.shape == (32, 32, 3)
            # A request that holds it may still begin something.
            await old.engines.decoder.decode(some_tokens(), options, Call())
        await until(lambda: not old.engines.alive)
        await models.close(10.0)

    asyncio.run(main())


def test_the_same_checkpoint_again_changes_nothing(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        models = Models({"one": lambda: LocalEngines(runner, runner)})
        models.start()
        await until(lambda: models.ready)
        before = models.default
        with caplog.at_level(logging.INFO, "flowmo.service.models"):
            await models.reload(10.0)
        assert models.default is before
        assert "as it was" in caplog.text
        with pytest.raises(UnknownModelError, match="served here: one"):
            models.named("two")
        await models.close(10.0)

    asyncio.run(main())
