"""Several pictures in one request, on the real server."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.service.engine.runner import Runner
from flowmo.service.settings import Settings
from tests.service.pictures import as_file, from_file, gradient
from tests.service.runners import Gated, client_of

PNG, JPEG = as_file(gradient()), as_file(gradient(), "JPEG")
RAW = {"Content-Type": "image/png"}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def items(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    found: list[dict[str, Any]] = body["items"]
    assert body["succeeded"] == sum(item["status"] == 200 for item in found)
    assert body["failed"] == len(found) - body["succeeded"]
    return found


def test_a_bad_item_costs_the_others_nothing(http: httpx.Client) -> None:
    alone = http.post("/v1/tokenize", content=PNG, headers=RAW).json()
    answer = http.post(
        "/v1/tokenize/batch",
        json={
            "items": [
                {"image": text(PNG)},
                {"image": text(PNG[:100])},
                {"image": "%"},
                7,
                {"image": text(JPEG), "fit": "pad"},
                {"image": text(PNG), "fits": "pad"},
                {"image": text(PNG), "model": "best"},
            ]
        },
    )
    found = items(answer)
    assert [item["status"] for item in found] == [200, 400, 422, 422, 200, 422, 404]
    assert found[0]["tokens"] == alone["tokens"]
    assert found[0]["upload"] == alone["upload"]
    assert found[0]["fit"] == alone["fit"]
    codes = [item["problem"]["code"] for item in found if "problem" in item]
    assert codes == [
        "corrupt-image",
        "invalid-fields",
        "invalid-fields",
        "invalid-fields",
        "unknown-model",
    ]
    assert found[3]["problem"]["errors"][0]["field"] == "items.3"
    assert found[5]["problem"]["errors"][0]["field"] == "items.5.fits"
    assert (found[4]["upload"]["format"], found[4]["fit"]["fit"]) == ("JPEG", "pad")
    assert set(found[1]) == {"status", "problem"}


def test_files_of_a_form_go_there_and_back(http: httpx.Client) -> None:
    files = [("item", ("a.png", PNG)), ("item", ("b.txt", b"no picture")), ("item", ("c", JPEG))]
    packed = items(
        http.post("/v1/tokenize/batch", files=files, params={"tokens": "container", "fit": "pad"})
    )
    assert [item["status"] for item in packed] == [200, 415, 200]
    containers = [base64.b64decode(item["container"]) for item in (packed[0], packed[2])]
    single = http.post(
        "/v1/tokenize", content=PNG, headers=RAW | {"Accept": MEDIA_TYPE}, params={"fit": "pad"}
    )
    assert containers[0] == single.content
    answer = http.post(
        "/v1/detokenize/batch",
        files=[("item", (str(i), data)) for i, data in enumerate([*containers, b"junk"])],
        data={"seed": "3", "format": "jpeg", "quality": "70"},
    )
    pictures = items(answer)
    assert [item["status"] for item in pictures] == [200, 200, 400]
    first = pictures[0]
    assert {name: first[name] for name in ("media_type", "seed", "steps", "schedule")} == {
        "media_type": "image/jpeg",
        "seed": 3,
        "steps": 4,
        "schedule": "power",
    }
    again = http.post(
        "/v1/detokenize",
        content=containers[0],
        headers={"Content-Type": MEDIA_TYPE, "Accept": "image/jpeg"},
        params={"seed": 3, "quality": 70},
    )
    assert base64.b64decode(first["image"]) == again.content


def test_options_of_an_item_win_over_the_batchs_and_these_over_the_querys(
    http: httpx.Client, container: bytes
) -> None:
    answer = http.post(
        "/v1/detokenize/batch",
        params={"steps": 2, "seed": 1, "guidance": 2.0},
        json={
            "steps": 3,
            "items": [
                {"container": text(container)},
                {"container": text(container), "steps": 5, "seed": 9, "schedule": "linear"},
                {"tokens": {"ids": Container.from_bytes(container).tokens.ids.tolist()}},
                {},
            ],
        },
    )
    found = items(answer)
    assert [item["status"] for item in found] == [200, 200, 200, 422]
    made = [(item["steps"], item["seed"], item["guidance"]) for item in found[:3]]
    assert made == [(3, 1, 2.0), (5, 9, 2.0), (3, 1, 2.0)]
    assert "rho" not in found[1]
    assert "exactly one of tokens and container" in found[3]["problem"]["detail"]


def test_images_are_reconstructed(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/reconstruct/batch", json={"items": [{"image": text(PNG)}, {"image": ""}], "seed": 2}
    )
    good, bad = items(answer)
    single = http.post("/v1/reconstruct", content=PNG, headers=RAW, params={"seed": 2})
    assert base64.b64decode(good["image"]) == single.content
    assert from_file(single.content).shape == (32, 32, 3)
    assert bad["status"] == 400


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed-body"),
        (b"[]", "application/json", 422, "invalid-fields"),
        (b'{"items": []}', "application/json", 422, "invalid-fields"),
        (json.dumps({"items": [{}] * 65}).encode(), "application/json", 422, "invalid-fields"),
        (b'{"items": [{}], "fits": 1}', "application/json", 422, "invalid-fields"),
        (b"x", "image/png", 415, "unsupported-body"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 400, "malformed-body"),
    ],
)
def test_a_request_that_is_wrong_as_a_whole(
    http: httpx.Client, content: bytes, kind: str, status: int, code: str
) -> None:
    answer = http.post("/v1/tokenize/batch", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_items_share_the_engines_batches(runner: Runner) -> None:
    gated = Gated(runner)

    async def main() -> None:
        async with client_of(gated, Settings(cache_bytes=0)) as client:
            answer = await client.post(
                "/v1/tokenize/batch", files=[("item", ("x", PNG)) for _ in range(16)]
            )
            assert answer.json()["succeeded"] == 16
            # Batches of more than one: fewer calls than pictures.
            assert len(gated.encoded) < 16

    asyncio.run(main())


def test_more_items_than_the_server_allows(runner: Runner, tmp_path: Path) -> None:
    async def main() -> None:
        async with client_of(runner, Settings(max_items=2)) as client:
            files = [("item", ("x", PNG)) for _ in range(3)]
            answer = await client.post("/v1/tokenize/batch", files=files)
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed-body")
            assert "2" in answer.json()["detail"]

    asyncio.run(main())
