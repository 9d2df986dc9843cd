"""JSON from strangers: what it may hold, and what is never built of it."""

import base64
import json
import tracemalloc
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.service.errors import InvalidFieldsError, MalformedBodyError
from flowmo.service.http.json_bodies import MAX_VALUES, check_structure, from_base64, parse_json
from flowmo.service.http.oip.tensors import parse
from flowmo.service.http.wire.bodies import DetokenizeBody, TokenizeBody

SIZE = 8 * 2**20
JSON = {"Content-Type": "application/json"}

HOSTILE = {
    "empty lists": b'{"x":[' + b",".join([b"[]"] * (SIZE // 3)) + b"]}",
    "empty objects": b'{"x":[' + b",".join([b"{}"] * (SIZE // 3)) + b"]}",
    "strings": b'{"x":[' + b",".join([b'"ab"'] * (SIZE // 5)) + b"]}",
    "numbers": b'{"x":[' + b",".join([b"1"] * (SIZE // 2)) + b"]}",
    "names": b"{" + b",".join([b'"":1'] * (SIZE // 5)) + b"}",
    "depth": b"[" * SIZE,
    "ids": b'{"tokens":{"ids":[' + b",".join([b"[]"] * (SIZE // 3)) + b"]}}",
    "escapes": b'{"image":"' + b"\\u0041" * (SIZE // 6) + b'"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_of_too_much_structure_nothing_is_built(name: str) -> None:
    for refuse in (
        lambda body: parse_json(TokenizeBody, body),
        lambda body: parse_json(DetokenizeBody, body, most=MAX_VALUES),
        lambda body: parse(body, None),
    ):
        tracemalloc.start()
        with pytest.raises(InvalidFieldsError, match="body: has"):
            refuse(HOSTILE[name])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < SIZE / 2, name


@pytest.mark.parametrize(
    "route", ["tokenize", "detokenize", "reconstruct", "tokenize/batch", "detokenize/batch"]
)
def test_each_route_refuses_it_and_says_why(http: httpx.Client, route: str) -> None:
    body = b'{"x":[' + b",".join([b"[]"] * 300_000) + b"]}"
    answer = http.post(f"/v1/{route}", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-fields")
    assert "values that can be used here" in answer.json()["errors"][0]["message"]


def test_the_inference_protocol_refuses_it_too(http: httpx.Client) -> None:
    body = b'{"inputs":[{"x":[' + b",".join([b"[]"] * 300_000) + b"]}]}"
    answer = http.post("/v2/models/tokenize/infer", content=body, headers=JSON)
    assert answer.status_code == 422
    assert "values that can be used here" in answer.json()["error"]


_Json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)


def _values(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + (sum(map(_values, value)) if isinstance(value, list) else 0)


@given(_Json)
def test_never_fewer_values_are_counted_than_there_are(value: Any) -> None:
    """An element follows a bracket or a comma, so as many marks bound the values."""
    text = json.dumps(value).encode()
    marks = sum(text.count(mark) for mark in (b",", b"[", b"{"))
    assert _values(value) <= 1 + 2 * marks
    check_structure(text, marks)
    if marks:
        with pytest.raises(InvalidFieldsError):
            check_structure(text, marks - 1)


def test_a_large_picture_in_base64_is_no_structure() -> None:
    data = bytes(range(256)) * (SIZE // 256)
    plain = base64.b64encode(data).decode()
    text = plain.replace("/", "\\/")  # as PHP writes it
    wrapped = "\\n".join(plain[i : i + 64] for i in range(0, 4096, 64))  # as MIME does
    assert parse_json(TokenizeBody, b'{"image":"%b"}' % text.encode()).image == data
    assert parse_json(TokenizeBody, b'{"image":"%b"}' % wrapped.encode()).image == data[:3072]


@given(st.binary(max_size=64), st.text(" \t\r\n", max_size=8))
def test_base64_is_that_of_the_standard_library(data: bytes, space: str) -> None:
    text = base64.b64encode(data).decode()
    assert from_base64(text[:5] + space + text[5:] + space) == data


@pytest.mark.parametrize("text", ["A", "AA", "AAA", "AA=A", "AA-_", "AA==AAAA", "ÄÄÄÄ", "="])
def test_what_is_not_base64(text: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)."):
        from_base64(text)


def test_padding_inside_is_refused_wherever_it_lies() -> None:
    with pytest.raises(ValueError, match="padding"):
        from_base64("A" * (2**20 - 4) + "AA==" + "AAAA")


def test_what_is_no_json_is_told_as_such() -> None:
    with pytest.raises(MalformedBodyError):
        parse_json(TokenizeBody, b'{"image":')
