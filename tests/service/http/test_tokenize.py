"""Image to tokens over HTTP, in every form that it may come and go."""

import base64

import httpx
import numpy as np
import pytest
from PIL import Image

from flowmo.imaging.fit import fit_image
from flowmo.imaging.reading import read_image
from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.model.inference import InferenceModel
from tests.service.fixtures import CONFIG
from tests.service.models import tokens_of
from tests.service.pictures import as_file, gradient

PICTURE = gradient()
PNG = as_file(PICTURE)


def tokenize(http: httpx.Client, data: bytes = PNG, **params: str) -> httpx.Response:
    return http.post(
        "/v1/tokenize", content=data, headers={"Content-Type": "image/png"}, params=params
    )


def test_the_answer_has_the_models_tokens(
    http: httpx.Client, inference_model: InferenceModel
) -> None:
    answer = tokenize(http)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    message = answer.json()
    fitted = fit_image(read_image(PNG, side=32), 32)
    (expected,) = tokens_of(inference_model, fitted.pixels[None])
    assert message["tokens"] == {
        "ids": [expected.ids.tolist()],
        "width": 32,
        "height": 32,
        "tile_size": 32,
        "overlap": 0,
        "fit": "native",
        "model": "nano",
        "fingerprint": inference_model.fingerprint,
        "code_length": 16,
        "token_bits": 12,
        "group_bits": 4,
        "payload_bytes": 24,
    }
    assert message["upload"] == {"width": 32, "height": 32, "format": "PNG", "animated": False}
    assert message["fit"] == {
        "fit": "native",
        "size": 32,
        "source": [0, 0, 32, 32],
        "target": [0, 0, 32, 32],
    }


def test_tokens_depend_on_the_picture(http: httpx.Client) -> None:
    other = as_file(np.ascontiguousarray(PICTURE[::-1, ::-1]))
    assert tokenize(http).json()["tokens"] != tokenize(http, other).json()["tokens"]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_all_forms_of_a_request_mean_the_same(http: httpx.Client, fit: str) -> None:
    url = "/v1/tokenize"
    params = {"fit": fit}
    answers = [
        http.post(url, content=PNG, headers={"Content-Type": "image/png"}, params=params),
        # What is in the bytes counts, as in browsers.
        http.post(url, content=PNG, headers={"Content-Type": "image/jpeg"}, params=params),
        http.post(
            url, content=PNG, headers={"Content-Type": "application/octet-stream"}, params=params
        ),
        http.post(url, files={"image": ("a.png", PNG, "image/png")}, data=params),
        http.post(url, files={"file": ("any name", PNG)}, params=params),
        http.post(url, json={"image": base64.b64encode(PNG).decode(), **params}),
        http.post(url, json={"image": base64.encodebytes(PNG).decode()}, params=params),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert answers[0].json()["fit"]["fit"] == fit


def test_options_in_the_body_win_over_the_query(http: httpx.Client) -> None:
    image = {"image": base64.b64encode(PNG).decode(), "fit": "pad"}
    answer = http.post("/v1/tokenize", json=image, params={"fit": "stretch"})
    assert answer.json()["fit"]["fit"] == "pad"


def test_the_container_holds_the_same_tokens(http: httpx.Client) -> None:
    message = tokenize(http).json()
    answer = http.post(
        "/v1/tokenize", content=PNG, headers={"Content-Type": "image/png", "Accept": MEDIA_TYPE}
    )
    assert answer.headers["Content-Type"] == MEDIA_TYPE
    container = Container.from_bytes(answer.content)
    assert container.tokens.ids.tolist() == message["tokens"]["ids"]
    assert container.fingerprint == message["tokens"]["fingerprint"]
    assert (container.width, container.height) == (32, 32)
    assert len(container.tokens.pack()) == CONFIG.payload_bytes


def test_headers_say_what_was_done(http: httpx.Client) -> None:
    headers = tokenize(http, as_file(gradient(48, 40)), fit="pad").headers
    assert headers["Flowmo-Model"] == "nano"
    assert headers["Flowmo-Token-Bytes"] == "24"
    assert headers["Flowmo-Upload-Size"] == "48x40"
    assert headers["Flowmo-Fit"] == "pad"
    assert headers["Flowmo-Fit-Source"] == "0,0,48,40"
    assert headers["Flowmo-Fit-Target"] == "0,2,32,29"
    stages = [entry.split(";")[0].strip() for entry in headers["Server-Timing"].split(",")]
    assert stages == ["decode_image", "queue", "encode"]


def test_an_animation_is_reported(http: httpx.Client) -> None:
    first, second = map(Image.fromarray, (PICTURE, np.ascontiguousarray(PICTURE[::-1])))
    data = as_file(first, "GIF", save_all=True, append_images=[second])
    answer = http.post("/v1/tokenize", content=data, headers={"Content-Type": "image/gif"})
    assert answer.json()["upload"]["animated"] is True
