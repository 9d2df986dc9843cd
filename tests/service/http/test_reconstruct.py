"""Image to image over HTTP."""

import base64

import httpx
import pytest

from tests.service.pictures import as_file, from_file, gradient

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}


def test_it_is_tokenize_and_detokenize_in_one(http: httpx.Client) -> None:
    container = http.post(
        "/v1/tokenize",
        content=PNG,
        headers=RAW | {"Accept": "application/vnd.flowmo"},
        params={"fit": "pad"},
    )
    options = {"seed": 4, "steps": 3}
    apart = http.post(
        "/v1/detokenize",
        content=container.content,
        headers={"Content-Type": "application/vnd.flowmo"},
        params=options,
    )
    together = http.post(
        "/v1/reconstruct", content=PNG, headers=RAW, params=options | {"fit": "pad"}
    )
    assert together.status_code == 200
    assert together.content == apart.content


def test_headers_say_everything(http: httpx.Client) -> None:
    headers = http.post("/v1/reconstruct", content=PNG, headers=RAW, params={"seed": 2}).headers
    assert headers["Flowmo-Seed"] == "2"
    assert headers["Flowmo-Token-Bytes"] == "24"
    assert headers["Flowmo-Fit-Source"] == "0,0,32,32"
    stages = [entry.split(";")[0].strip() for entry in headers["Server-Timing"].split(",")]
    assert stages == ["decode_image", "queue", "encode", "sample", "encode_image"]


@pytest.mark.parametrize("accept", ["image/png", "image/jpeg", "image/webp"])
def test_form_and_json_take_all_options(http: httpx.Client, accept: str) -> None:
    options = {"fit": "stretch", "seed": "6", "steps": "2", "guidance": "1", "quality": "70"}
    headers = {"Accept": accept}
    by_query = http.post("/v1/reconstruct", content=PNG, headers=RAW | headers, params=options)
    by_form = http.post(
        "/v1/reconstruct", files={"image": ("a.png", PNG)}, data=options, headers=headers
    )
    by_json = http.post(
        "/v1/reconstruct",
        json={
            "image": base64.b64encode(PNG).decode(),
            "fit": "stretch",
            "seed": 6,
            "steps": 2,
            "guidance": 1,
            "quality": 70,
        },
        headers=headers,
    )
    assert by_query.status_code == 200
    assert from_file(by_query.content).shape == (32, 32, 3)
    assert by_query.content == by_form.content == by_json.content
