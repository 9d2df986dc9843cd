"""Every way to be refused over HTTP: status, code, and a sentence that helps."""

import base64
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.model.inference import InferenceModel
from flowmo.model.tokens import Tokens
from flowmo.service.http.problems import ANSWERS
from tests.service.fixtures import MAX_BODY_BYTES
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}
BOXED = {"Content-Type": MEDIA_TYPE}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check the form that every error has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    message: dict[str, Any] = answer.json()
    assert message["status"] == status
    assert message["code"] == code
    assert message["type"] == f"urn:flowmo:problem:{code}"
    assert message["instance"] == f"urn:flowmo:request:{answer.headers['X-Request-ID']}"
    assert message["title"]
    assert message["detail"]
    assert message["hint"].endswith(".")
    return message


def ids_of(inference_model: InferenceModel, value: int = 3) -> list[list[int]]:
    config = inference_model.config
    return [[value] * config.ids_per_token] * config.code_length


def container_of(inference_model: InferenceModel, fingerprint: str | None = None) -> bytes:
    tokens = Tokens.from_ids(ids_of(inference_model), group_bits=4)
    name = fingerprint or inference_model.fingerprint
    return Container(tokens=tokens, fingerprint=name, width=32, height=32).to_bytes()


# --- the request as such ------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["/v1/tokenize", "/v1/reconstruct"])
@pytest.mark.parametrize("content_type", ["text/plain", "image/svg+xml", "image/heic", ""])
def test_other_content_types_are_415(http: httpx.Client, route: str, content_type: str) -> None:
    answer = http.post(route, content=PNG, headers={"Content-Type": content_type})
    assert "multipart/form-data" in problem(answer, 415, "unsupported-body")["detail"]


def test_tokens_of_another_content_type_are_415(http: httpx.Client) -> None:
    answer = http.post("/v1/detokenize", content=b"x", headers={"Content-Type": "image/png"})
    assert MEDIA_TYPE in problem(answer, 415, "unsupported-body")["detail"]


def test_compressed_bodies_are_415(http: httpx.Client) -> None:
    answer = http.post("/v1/tokenize", content=PNG, headers=RAW | {"Content-Encoding": "gzip"})
    problem(answer, 415, "unsupported-body")


@pytest.mark.parametrize(
    ("route", "accept"),
    [
        ("/v1/tokenize", "image/png"),
        ("/v1/reconstruct", "application/json"),
        ("/v1/reconstruct", "image/avif, text/html;q=0.9"),
    ],
)
def test_unknown_accept_is_406(http: httpx.Client, route: str, accept: str) -> None:
    answer = http.post(route, content=PNG, headers=RAW | {"Accept": accept})
    assert "on offer:" in problem(answer, 406, "not-acceptable")["detail"]


def test_a_declared_size_over_the_limit_is_413(http: httpx.Client) -> None:
    answer = http.post("/v1/tokenize", content=bytes(MAX_BODY_BYTES + 1), headers=RAW)
    assert "1,000,001 bytes" in problem(answer, 413, "body-too-large")["detail"]


def test_a_chunked_body_over_the_limit_is_413(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(100_000)

    for route in ("/v1/tokenize", "/v1/detokenize", "/v1/reconstruct"):
        answer = http.post(
            route, content=chunks(), headers={"Content-Type": "application/octet-stream"}
        )
        problem(answer, 413, "body-too-large")


def test_a_form_over_the_limit_is_413(http: httpx.Client) -> None:
    answer = http.post("/v1/tokenize", files={"image": ("a.png", bytes(3 * MAX_BODY_BYTES))})
    problem(answer, 413, "body-too-large")


def test_a_body_of_exactly_the_limit_is_read(http: httpx.Client) -> None:
    data = PNG + bytes(MAX_BODY_BYTES - len(PNG))
    assert http.post("/v1/tokenize", content=data, headers=RAW).status_code == 200


def test_unknown_paths_are_404_and_other_methods_405(http: httpx.Client) -> None:
    problem(http.get("/v1/nothing"), 404, "not-found")
    answer = http.get("/v1/tokenize")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    "params",
    [
        {"fit": "cover"},
        {"seed": "-1"},
        {"seed": str(2**63)},
        {"seed": "1.5"},
        {"steps": "0"},
        {"steps": "1001"},
        {"steps": "many"},
        {"schedule": "explicit"},
        {"rho": "0"},
        {"rho": "nan"},
        {"guidance": "-1"},
        {"guidance": "inf"},
        {"quality": "0"},
        {"quality": "101"},
        {"stpes": "5"},
    ],
)
def test_bad_parameters_are_422_and_named(http: httpx.Client, params: dict[str, str]) -> None:
    (name,) = params
    answer = http.post("/v1/reconstruct", content=PNG, headers=RAW, params=params)
    (error,) = problem(answer, 422, "invalid-fields")["errors"]
    assert name in error["field"]
    if name != "steps":
        by_form = http.post("/v1/reconstruct", files={"image": ("a.png", PNG)}, data=params)
        assert name in problem(by_form, 422, "invalid-fields")["errors"][0]["field"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed-body"),
        (b"{", 400, "malformed-body"),
        (b"\xff\xfe", 400, "malformed-body"),
        (b"[" * 200, 400, "malformed-body"),
        (b"[" * 100_000, 422, "invalid-fields"),
        (b"null", 422, "invalid-fields"),
        (b"{}", 422, "invalid-fields"),
        (b'{"image": 5}', 422, "invalid-fields"),
        (b'{"image": "not base64!"}', 422, "invalid-fields"),
        (b'{"image": "data:image/png;base64,AAAA"}', 422, "invalid-fields"),
        (b'{"image": "AAAA", "surplus": 1}', 422, "invalid-fields"),
        (b'{"image": "AAAA"}', 415, "unsupported-image"),
        (b'{"image": ""}', 400, "corrupt-image"),
    ],
)
def test_bad_json(http: httpx.Client, body: bytes, status: int, code: str) -> None:
    answer = http.post("/v1/tokenize", content=body, headers={"Content-Type": "application/json"})
    problem(answer, status, code)


def test_bad_forms_are_400(http: httpx.Client) -> None:
    without_boundary = {"Content-Type": "multipart/form-data"}
    with_boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    for headers, body in (
        (without_boundary, PNG),
        (with_boundary, PNG),
        (with_boundary, b""),
        (with_boundary, b"--x\r\nContent-Disposition: nonsense\r\n\r\na\r\n--x--\r\n"),
    ):
        problem(http.post("/v1/tokenize", content=body, headers=headers), 400, "malformed-body")
    two = [("a", ("a.png", PNG)), ("b", ("b.png", PNG))]
    problem(http.post("/v1/tokenize", files=two), 400, "malformed-body")
    no_file = {"fit": (None, "crop")}
    answer = http.post("/v1/tokenize", files=no_file)
    assert "curl -F" in problem(answer, 400, "malformed-body")["detail"]


# --- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "corrupt-image"),
        (as_file(gradient(), "JPEG")[:400], 400, "corrupt-image"),
        (PNG[:100], 400, "corrupt-image"),
        (as_file(gradient(), "PPM"), 415, "unsupported-image"),
        (b"hello", 415, "unsupported-image"),
        (as_file(Image.new("1", (1001, 1000))), 413, "image-too-large"),
    ],
)
def test_bad_images(http: httpx.Client, data: bytes, status: int, code: str) -> None:
    problem(http.post("/v1/tokenize", content=data, headers=RAW), status, code)
    form = http.post("/v1/reconstruct", files={"image": ("a.png", data)})
    problem(form, status, code)


def test_nothing_of_an_upload_is_echoed(http: httpx.Client) -> None:
    secret = b"a-very-secret-word"
    for headers in (RAW, BOXED, {"Content-Type": "application/json"}):
        for route in ("/v1/tokenize", "/v1/detokenize"):
            answer = http.post(route, content=secret, headers=headers)
            assert answer.status_code in {400, 415}
            assert "secret" not in answer.text
    answer = http.post("/v1/tokenize", json={"image": secret.decode()})
    assert "secret" not in answer.text


# --- tokens -------------------------------------------------------------------------------------


def test_containers_of_another_model_are_409(
    http: httpx.Client, inference_model: InferenceModel
) -> None:
    data = container_of(inference_model, fingerprint="0" * 32)
    problem(http.post("/v1/detokenize", content=data, headers=BOXED), 409, "container-mismatch")
    message = {"ids": ids_of(inference_model), "fingerprint": "0" * 32}
    answer = http.post("/v1/detokenize", json={"tokens": message})
    problem(answer, 409, "container-mismatch")


def test_damaged_containers_are_400(http: httpx.Client, inference_model: InferenceModel) -> None:
    data = container_of(inference_model)
    flipped = data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]
    for body, code in (
        (b"", "not-a-container"),
        (b"hello, world", "not-a-container"),
        (PNG, "not-a-container"),
        (data[:-5], "container-truncated"),
        (data[:9], "container-truncated"),
        (flipped, "container-corrupted"),
        (data + b"x", "container-corrupted"),
        (data[:8] + b"\xff\x7f" + data[10:], "container-version"),
    ):
        problem(http.post("/v1/detokenize", content=body, headers=BOXED), 400, code)


def test_ids_of_a_wrong_shape_or_range_are_422(
    http: httpx.Client, inference_model: InferenceModel
) -> None:
    good = ids_of(inference_model)
    shapes: list[list[list[int]]] = [[], [[]], good[:-1], [*good[:-1], [1]], [*good, [1, 1, 1]]]
    for ids in (*shapes, ids_of(inference_model, 16)):
        answer = http.post("/v1/detokenize", json={"tokens": {"ids": ids}})
        problem(answer, 422, "invalid-tokens")


@pytest.mark.parametrize("value", [-1, 2**24, 1.5, "3", None, True, 2**70])
def test_ids_that_are_no_ids_are_422(
    http: httpx.Client, inference_model: InferenceModel, value: Any
) -> None:
    answer = http.post("/v1/detokenize", json={"tokens": {"ids": [[value, 1, 1]]}})
    (error,) = problem(answer, 422, "invalid-fields")["errors"]
    assert error["field"].startswith("body.tokens.ids.0.0")


def test_lists_far_too_long_are_refused_early(http: httpx.Client) -> None:
    for ids in ([[1]] * 70_000, [[1] * 100_000], ["x"] * 50_000):
        answer = http.post("/v1/detokenize", json={"tokens": {"ids": ids}})
        assert len(problem(answer, 422, "invalid-fields")["errors"]) == 1


# --- the table ----------------------------------------------------------------------------------


def test_the_table_is_well_formed() -> None:
    codes: dict[str, Any] = {}
    for answer in ANSWERS.values():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", answer.code)
        assert 400 <= answer.status < 600
        assert codes.setdefault(answer.code, answer) == answer, "one code, one meaning"


def test_request_ids_are_kept_when_they_are_harmless(http: httpx.Client) -> None:
    for given, kept in (("trace-42:a.b_c", True), ("x" * 129, False), ("a b<script>", False)):
        answer = http.get("/v1/nothing", headers={"X-Request-ID": given})
        assert (answer.headers["X-Request-ID"] == given) is kept
        assert answer.json()["instance"].endswith(answer.headers["X-Request-ID"])


def test_base64_of_a_real_picture_with_a_missing_end_is_corrupt(http: httpx.Client) -> None:
    image = base64.b64encode(PNG[:100]).decode()
    problem(http.post("/v1/reconstruct", json={"image": image}), 400, "corrupt-image")
