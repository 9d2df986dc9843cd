"""Whatever is sent, the server answers, and not with a mistake of its own."""

import contextlib
import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowmo.imaging.formats import INPUT_FORMATS
from flowmo.imaging.reading import ImageError, read_image
from flowmo.model.container_format import MAGIC
from tests.service.pictures import as_file, gradient

FORMATS = [format.pillow for format in INPUT_FORMATS]
FILES = [as_file(gradient(), format) for format in FORMATS]
over_http = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["image", "fit", "tokens", "ids", "seed", "steps", "guidance", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A real file with some bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        data[start : start + length] = draw(st.binary(max_size=8))
    return bytes(data)


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if not answer.is_success:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


@given(damaged_files() | st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_reading_images_fails_in_one_way_only(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        image = read_image(data, max_pixels=1_000_000, side=32)
        assert image.pixels.ndim == 3


@over_http
@given(data=damaged_files() | st.binary(max_size=200))
def test_any_bytes_as_an_image(http: httpx.Client, data: bytes) -> None:
    check(http.post("/v1/tokenize", content=data, headers={"Content-Type": "image/png"}))


@over_http
@given(data=st.binary(max_size=300))
def test_any_bytes_as_a_form(http: httpx.Client, data: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    body = b"--b\r\n" + data + b"\r\n--b--\r\n"
    check(http.post("/v1/tokenize", content=body, headers=headers))


@over_http
@given(data=st.binary(max_size=300), prefix=st.sampled_from([b"", MAGIC, MAGIC + b"\x01\x00"]))
def test_any_bytes_as_a_container(http: httpx.Client, data: bytes, prefix: bytes) -> None:
    headers = {"Content-Type": "application/vnd.flowmo"}
    check(http.post("/v1/detokenize", content=prefix + data, headers=headers))


@over_http
@given(body=JSON, route=st.sampled_from(["tokenize", "detokenize", "reconstruct"]))
def test_any_json(http: httpx.Client, body: Any, route: str) -> None:
    headers = {"Content-Type": "application/json"}
    check(http.post(f"/v1/{route}", content=json.dumps(body), headers=headers))


@over_http
@given(
    accept=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    kind=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    query=st.text(max_size=60),
)
def test_any_headers_and_query(http: httpx.Client, accept: str, kind: str, query: str) -> None:
    headers = {"Accept": accept.strip(), "Content-Type": kind.strip()}
    params = {"steps": "1", "fit": query, query: "1"}
    check(http.post("/v1/reconstruct", content=FILES[0], headers=headers, params=params))
