"""Compressed answers: JSON alone, and only for those who ask."""

import gzip
import json

import httpx
import pytest
from backports import zstd

from flowmo.service.http.content_coding import choose_coding
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())
FILES = [("item", ("a", PNG))] * 4


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, None),
        ("", None),
        ("br", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("*", "zstd"),
        ("zstd;q=0, *;q=0.1", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=high", None),
    ],
)
def test_the_coding_is_the_clients_choice(accept: str | None, chosen: str | None) -> None:
    assert choose_coding(accept) == chosen


def raw(http: httpx.Client, path: str, coding: str, accept: str = "*/*") -> tuple[bytes, str]:
    headers = {"Accept-Encoding": coding, "Accept": accept}
    with http.stream("POST", path, files=FILES, headers=headers) as answer:
        assert answer.status_code == 200
        return b"".join(answer.iter_raw()), answer.headers.get("Content-Encoding", "")


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_json_says_the_same_however_it_is_coded(http: httpx.Client, accept: str) -> None:
    path = "/v1/tokenize/batch"
    plain, coding = raw(http, path, "identity", accept)
    assert coding == ""
    packed, coding = raw(http, path, "gzip", accept)
    assert coding == "gzip"
    assert len(packed) < len(plain) / 2
    other, coding = raw(http, path, "zstd", accept)
    assert coding == "zstd"
    for text in (gzip.decompress(packed), zstd.decompress(other)):
        if accept == "application/json":
            assert json.loads(text) == json.loads(plain)
        else:
            assert sorted(text.splitlines()) == sorted(plain.splitlines())


def test_short_answers_problems_and_pictures(http: httpx.Client) -> None:
    headers = {"Accept-Encoding": "gzip"}
    short = http.get("/readyz", headers=headers)
    assert "Content-Encoding" not in short.headers
    assert "Accept-Encoding" in short.headers["Vary"]
    document = http.get("/openapi.json", headers=headers)
    assert document.headers["Content-Encoding"] == "gzip"
    for accept in ("image/png", "application/x-npz", "application/vnd.flowmo"):
        route = "reconstruct" if accept.startswith("image") else "tokenize"
        answer = http.post(
            f"/v1/{route}",
            content=PNG,
            headers=headers | {"Content-Type": "image/png", "Accept": accept},
        )
        assert answer.status_code == 200
        assert "Content-Encoding" not in answer.headers
        assert int(answer.headers["Content-Length"]) == len(answer.content)
