"""Tokens to image over HTTP."""

from typing import Any

import httpx
import numpy as np
import pytest

from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.model.inference import InferenceModel
from flowmo.model.tokens import Tokens
from tests.service.fixtures import CONFIG
from tests.service.models import pictures_of
from tests.service.pictures import as_file, from_file, gradient

CONTAINER = {"Content-Type": MEDIA_TYPE}


@pytest.fixture(scope="module")
def container(inference_model: InferenceModel) -> bytes:
    ids = np.random.default_rng(0).integers(0, 16, (16, 3)).astype(np.int32)
    tokens = Tokens(ids=ids, group_bits=4)
    fingerprint = inference_model.fingerprint
    return Container(tokens=tokens, fingerprint=fingerprint, width=32, height=32).to_bytes()


def detokenize(http: httpx.Client, container: bytes, **params: Any) -> httpx.Response:
    return http.post("/v1/detokenize", content=container, headers=CONTAINER, params=params)


def test_the_picture_is_the_models(
    http: httpx.Client, container: bytes, inference_model: InferenceModel
) -> None:
    answer = detokenize(http, container, seed=5)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/png"
    (expected,) = pictures_of(
        inference_model, [Container.from_bytes(container).tokens], seeds=[5], sampler=CONFIG.sampler
    )
    assert np.array_equal(from_file(answer.content), expected)


@pytest.mark.parametrize(
    ("accept", "media_type", "format"),
    [
        ("*/*", "image/png", "PNG"),
        ("image/png", "image/png", "PNG"),
        ("image/jpeg", "image/jpeg", "JPEG"),
        ("image/webp", "image/webp", "WEBP"),
        ("image/png;q=0.1, image/webp", "image/webp", "WEBP"),
    ],
)
def test_accept_chooses_the_format(
    http: httpx.Client, container: bytes, accept: str, media_type: str, format: str
) -> None:
    answer = http.post("/v1/detokenize", content=container, headers=CONTAINER | {"Accept": accept})
    assert answer.headers["Content-Type"] == media_type
    magic = {"PNG": b"\x89PNG", "JPEG": b"\xff\xd8", "WEBP": b"RIFF"}[format]
    assert answer.content.startswith(magic)
    assert from_file(answer.content).shape == (32, 32, 3)


def test_quality_changes_the_size_of_lossy_files(http: httpx.Client, container: bytes) -> None:
    headers = CONTAINER | {"Accept": "image/jpeg"}
    sizes = [
        len(
            http.post(
                "/v1/detokenize", content=container, headers=headers, params={"quality": q}
            ).content
        )
        for q in (10, 95)
    ]
    assert sizes[0] < sizes[1]


def test_json_ids_and_container_give_the_same_bytes(http: httpx.Client, container: bytes) -> None:
    ids = Container.from_bytes(container).tokens.ids.tolist()
    by_json = http.post("/v1/detokenize", json={"tokens": {"ids": ids}, "seed": 3, "steps": 2})
    assert by_json.content == detokenize(http, container, seed=3, steps=2).content


def test_what_tokenize_answers_can_be_sent_back(http: httpx.Client) -> None:
    picture = as_file(gradient())
    message = http.post(
        "/v1/tokenize", content=picture, headers={"Content-Type": "image/png"}
    ).json()
    again = http.post("/v1/detokenize", json={"tokens": message["tokens"]})
    direct = http.post("/v1/reconstruct", content=picture, headers={"Content-Type": "image/png"})
    assert again.status_code == 200
    assert again.content == direct.content


def test_a_seed_decides_the_picture(http: httpx.Client, container: bytes) -> None:
    default, zero, one, again = (
        detokenize(http, container, **params).content
        for params in ({}, {"seed": 0}, {"seed": 1}, {"seed": 1})
    )
    assert default == zero
    assert zero != one
    assert one == again


@pytest.mark.parametrize(
    "params", [{"steps": 1}, {"schedule": "linear"}, {"rho": 1.5}, {"guidance": 5.0}]
)
def test_each_option_changes_the_picture(
    http: httpx.Client, container: bytes, params: dict[str, Any]
) -> None:
    # Enough steps for the guidance interval to be hit.
    base = {"steps": 8}
    plain = detokenize(http, container, **base).content
    assert detokenize(http, container, **(base | params)).content != plain


def test_headers_repeat_the_picture(http: httpx.Client, container: bytes) -> None:
    first = detokenize(http, container, seed=9, steps=3, schedule="linear", guidance=2.5)
    names = ("seed", "steps", "schedule", "guidance")
    params = {name: first.headers[f"Flowmo-{name}"] for name in names}
    assert params == {"seed": "9", "steps": "3", "schedule": "linear", "guidance": "2.5"}
    assert "Flowmo-Rho" not in first.headers
    assert detokenize(http, container, **params).content == first.content
    defaults = detokenize(http, container).headers
    assert defaults["Flowmo-Steps"] == "4"
    assert defaults["Flowmo-Rho"] == "0.25"
    assert defaults["Flowmo-Fingerprint"] == Container.from_bytes(container).fingerprint
    stages = [entry.split(";")[0].strip() for entry in defaults["Server-Timing"].split(",")]
    assert stages == ["queue", "sample", "encode_image"]


def test_headers_repeat_numbers_exactly(http: httpx.Client, container: bytes) -> None:
    wanted = {"guidance": 1.23456789012345, "rho": 1 / 3}
    first = detokenize(http, container, steps=8, **wanted)
    told = {name: first.headers[f"Flowmo-{name}"] for name in wanted}
    assert {name: float(number) for name, number in told.items()} == wanted
    assert detokenize(http, container, steps=8, **told).content == first.content


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("code_length", 15), ("token_bits", 8), ("group_bits", 5), ("payload_bytes", 25)],
)
def test_fields_that_contradict_the_ids_are_refused(
    http: httpx.Client, field: str, wrong: int
) -> None:
    picture = as_file(gradient())
    made = http.post("/v1/tokenize", content=picture, headers={"Content-Type": "image/png"}).json()
    assert made["tokens"][field] != wrong
    made["tokens"][field] = wrong
    answer = http.post("/v1/detokenize", json=made)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "invalid-fields"
    (told,) = problem["errors"]
    assert told["field"] == f"tokens.{field}"
    assert f"says {wrong}" in told["message"]
    assert "leave it out" in told["message"]
    del made["tokens"][field]
    assert http.post("/v1/detokenize", json=made).status_code == 200


def test_seeds_may_be_as_large_as_the_generator_takes(http: httpx.Client, container: bytes) -> None:
    answer = detokenize(http, container, seed=2**63 - 1)
    assert answer.status_code == 200
    assert answer.headers["Flowmo-Seed"] == str(2**63 - 1)
