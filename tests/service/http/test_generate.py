"""POST /v1/generate, of the real server and of an application in this process."""

import asyncio
import base64
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

import flowmo
from flowmo.model.container import MEDIA_TYPE
from flowmo.model.prior.checkpoint import Prior
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.runner import Runner
from flowmo.service.http.app import create_app
from flowmo.service.models import Models
from flowmo.service.settings import Settings
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics
from tests.service.http.test_stream import events, picture
from tests.service.pictures import from_file
from tests.service.probes import value
from tests.service.runners import GatedPrior, client_of, until

URL = "/v1/generate"
THREE_OF_16 = {"tokens": {"ids": [[1, 2, 3]] * 16}, "mask": [True] * 3}


@pytest.fixture(scope="module")
def prior(checkpoint: Path, prior_checkpoint: Path) -> flowmo.TokenGenerator:
    return flowmo.load_prior(prior_checkpoint, flowmo.load(checkpoint, device="cpu"))


def ids_of(item: dict[str, object]) -> np.ndarray:
    tokens = item["tokens"]
    assert isinstance(tokens, dict)
    return np.array(tokens["ids"], np.int32)


def test_json_container_and_picture_are_of_the_same_tokens(
    http: httpx.Client, prior: flowmo.TokenGenerator
) -> None:
    wish: dict[str, str | float] = {
        "class": "dog",
        "seed": 7,
        "steps": 3,
        "guidance": 2.0,
        "temperature": 0.9,
    }
    wanted = prior.generate("dog", seeds=7, steps=3, guidance=2.0, temperature=0.9)
    answer = http.post(URL, json={**wish, "count": 3})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [item["seed"] for item in body["items"]] == [7, 8, 9]
    assert (body["class"], body["guidance"], body["temperature"]) == ("dog", 2.0, 0.9)
    assert (ids_of(body["items"][0]) == wanted.ids).all()
    assert (ids_of(body["items"][1]) == prior.generate(
        1, seeds=8, steps=3, guidance=2.0, temperature=0.9
    ).ids).all()  # fmt: skip
    # What it answered is what detokenize takes.
    decoded = http.post("/v1/detokenize", json={"tokens": body["items"][0]["tokens"], "seed": 7})

    packed = http.post(URL, params=wish, headers={"Accept": MEDIA_TYPE})
    assert flowmo.ImageTokens.from_bytes(packed.content) == wanted
    said = {name: packed.headers[f"Flowmo-{name}"] for name in ("Class", "Seed", "Steps")}
    assert said == {"Class": "dog", "Seed": "7", "Steps": "3"}
    assert packed.headers["Flowmo-Prior"] == body["prior"]
    assert "generate;dur=" in packed.headers["Server-Timing"]

    made = http.post(URL, params=wish, headers={"Accept": "image/png"})
    assert made.content == decoded.content
    assert made.headers["Flowmo-Decode-Steps"] == "4"
    assert from_file(made.content).shape == (32, 32, 3)


def test_kept_tokens_stay(http: httpx.Client, prior: flowmo.TokenGenerator) -> None:
    tokens = prior.generate("cat", seeds=1)
    mask = [True] * 8 + [False] * 8
    wanted = prior.generate(seeds=2, tokens=tokens, mask=mask)
    packed = base64.b64encode(tokens.to_bytes()).decode()
    for sent in ({"container": packed}, {"tokens": {"ids": tokens.ids.tolist()}}):
        answer = http.post(URL, json={**sent, "mask": mask, "seed": 2})
        assert answer.status_code == 200, answer.text
        assert (ids_of(answer.json()["items"][0]) == wanted.ids).all()
    whole = http.post(URL, json={"container": packed, "mask": [True] * 16, "stream": True})
    assert [name for name, _ in events(whole.text)] == ["image"]  # there was nothing to find


def test_a_stream_shows_the_tokens_so_far(http: httpx.Client, prior: flowmo.TokenGenerator) -> None:
    params: dict[str, str | int | list[int]] = {
        "class": "cat",
        "seed": 3,
        "stream": True,
        "previews": [2, 4],
        "preview_steps": 1,
    }
    came = list(events(http.post(URL, params=params).text))
    steps = [(name, data.get("step")) for name, data in came]
    assert steps == [
        ("progress", 1),
        ("progress", 2),
        ("preview", 2),
        ("progress", 3),
        ("progress", 4),
        ("preview", 4),
        ("image", None),
    ]
    last = came[-1][1]
    plain = http.post(URL, params={"class": "cat", "seed": 3}, headers={"Accept": "image/png"})
    assert picture(last) == plain.content
    container = base64.b64decode(str(last["container"]))
    assert flowmo.ImageTokens.from_bytes(container) == prior.generate("cat", seeds=3)
    assert picture(came[2][1]) != picture(came[5][1])


def test_models_say_who_can_generate_and_metrics_what_was(http: httpx.Client) -> None:
    (model,) = http.get("/v1/models").json()["models"]
    assert model["prior"]["class_names"] == ["cat", "dog"]
    assert model["prior"]["sampler"]["steps"] == 4
    labels = {"model": "nano", "engine": "generator"}
    before = value(http, "flowmo_batch_rows_sum", **labels)
    assert http.post(URL, params={"class": 1, "seed": 99}).status_code == 200
    assert value(http, "flowmo_batch_rows_sum", **labels) == before + 8  # 4 steps of 2 rows
    assert value(http, "flowmo_batch_slots", **labels) == 8
    stage = value(http, "flowmo_stage_duration_seconds_count", model="nano", stage="generate")
    assert stage > 0


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({"class": "cow"}, 422, "invalid-options", "no class 'cow': there are the numbers 0 ... 1"),
        ({"clas": "cat"}, 422, "invalid-fields", "clas"),
        ({"steps": 5000}, 422, "invalid-fields", "must be 1 to 1000"),
        ({"mask": [True]}, 422, "invalid-fields", "mask goes with tokens or container"),
        (THREE_OF_16, 422, "invalid-tokens", "a mask is 16"),
        ({"count": 2, "stream": True}, 422, "invalid-fields", "several are answered as JSON alone"),
        ({"model": "other"}, 404, "unknown-model", "served here: nano"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    http: httpx.Client, body: dict[str, object], status: int, code: str, said: str
) -> None:
    answer = http.post(URL, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert said in answer.text


def test_a_body_of_another_type_and_a_late_deadline_are_refused(http: httpx.Client) -> None:
    assert http.post(URL, content=b"cat").json()["code"] == "unsupported-body"
    late = http.post(URL, params={"steps": 48}, headers={"X-Request-Timeout-Seconds": "0.00001"})
    assert late.json()["code"] in {"deadline-unreachable", "deadline-exceeded"}


def test_a_model_without_a_prior_says_so(runner: Runner) -> None:
    async def main() -> None:
        async with client_of(runner) as client:
            answer = await client.post(URL)
            assert (answer.status_code, answer.json()["code"]) == (404, "no-prior")
            assert (await client.get("/v1/models")).json()["models"][0]["prior"] is None

    asyncio.run(main())


def test_a_repeated_request_is_not_generated_again(runner: Runner, prior_checkpoint: Path) -> None:
    gated = GatedPrior(Prior.from_pretrained(prior_checkpoint))
    metrics = Metrics(PrometheusInstruments())

    def build() -> LocalEngines:
        return LocalEngines(
            runner, runner, None, metrics.engines.observer("nano", generates=True), gated
        )

    app: FastAPI = create_app(Models({"nano": build}), metrics, Settings())

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        ):
            (served,) = app.state.service.models
            await until(lambda: served.engines.ready)
            gated.batches.clear()
            answers = [await client.post(URL, params={"class": "cat"}) for _ in range(2)]
            assert [one.headers["Flowmo-Cache"] for one in answers] == ["miss", "hit"]
            assert len(gated.batches) == 4
            texts = [one.text.replace('"hit"', '"miss"') for one in answers]
            assert texts[0] == texts[1]
            # A client that gives its request up by name frees its rows.
            gated.gate.clear()
            gated.entered.clear()
            asked = asyncio.create_task(
                client.post(URL, params={"seed": 1}, headers={"X-Request-ID": "mine"})
            )
            await asyncio.to_thread(gated.entered.wait, 60)
            assert (await client.post("/v1/requests/mine/cancel")).json()["cancelled"] == 1
            assert (await asked).json()["code"] == "cancelled"
            gated.gate.set()
            await until(lambda: served.engines.generator.queue_depth == 0)

    asyncio.run(main())
