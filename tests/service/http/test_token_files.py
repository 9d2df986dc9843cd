"""Token sets as arrays and as bare bits: answers, bodies, and files of strangers."""

import base64
import io
import json
import struct
import time
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.service.errors import RequestError
from flowmo.service.http.token_files import (
    ARRAYS,
    NPZ,
    PACKED,
    SAFETENSORS,
    TokenArray,
    split_containers,
)
from tests.service.pictures import as_file, gradient

PNG, JPEG = as_file(gradient()), as_file(gradient(), "JPEG")
FORMS = (NPZ, SAFETENSORS, PACKED, MEDIA_TYPE)


def tokenize(http: httpx.Client, accept: str, **params: str) -> httpx.Response:
    headers = {"Content-Type": "image/png", "Accept": accept}
    answer = http.post("/v1/tokenize", content=PNG, headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == accept
    return answer


def detokenize(http: httpx.Client, body: bytes, form: str, **headers: str) -> httpx.Response:
    return http.post("/v1/detokenize", content=body, headers={"Content-Type": form, **headers})


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_each_form_holds_the_same_ids(http: httpx.Client) -> None:
    container = Container.from_bytes(tokenize(http, MEDIA_TYPE).content)
    with np.load(io.BytesIO(tokenize(http, NPZ).content), allow_pickle=False) as archive:
        assert archive["ids"].dtype == np.uint16
        assert np.array_equal(archive["ids"], container.tokens.ids[0])
        assert str(archive["fingerprint"]) == container.fingerprint
        assert (int(archive["group_bits"]), str(archive["model"])) == (4, "nano")
    ids = load_safetensors(tokenize(http, SAFETENSORS).content)["ids"]
    assert ids.dtype == np.uint16
    assert np.array_equal(ids, container.tokens.ids[0])
    packed = tokenize(http, PACKED)
    assert packed.content == container.tokens.pack()
    assert packed.headers["Flowmo-Fingerprint"] == container.fingerprint


def test_metadata_of_safetensors(http: httpx.Client, tmp_path: Any) -> None:
    answer = tokenize(http, SAFETENSORS)
    (tmp_path / "a.safetensors").write_bytes(answer.content)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {
            "fingerprint": answer.headers["Flowmo-Fingerprint"],
            "group_bits": "4",
            "model": "nano",
        }


@pytest.mark.parametrize("form", FORMS)
def test_what_is_answered_can_be_posted(http: httpx.Client, form: str) -> None:
    tokens = http.post("/v1/tokenize", content=PNG, headers={"Content-Type": "image/png"}).json()
    expected = http.post("/v1/detokenize", json=tokens).content
    answer = tokenize(http, form)
    fingerprint = answer.headers["Flowmo-Fingerprint"]
    again = detokenize(http, answer.content, form, **{"Flowmo-Fingerprint": fingerprint})
    assert again.status_code == 200
    assert again.content == expected


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_arrays_of_ones_own_need_ids_alone(http: httpx.Client, dtype: str) -> None:
    ids = np.full((16, 3), 9, dtype)
    expected = http.post("/v1/detokenize", json={"tokens": {"ids": ids.tolist()}}).content
    compressed = io.BytesIO()
    np.savez_compressed(compressed, ids=ids)
    for body, form in (
        (npz(ids=np.asfortranarray(ids)), NPZ),
        (compressed.getvalue(), NPZ),
        (save_safetensors({"ids": ids}), SAFETENSORS),
    ):
        answer = detokenize(http, body, form)
        assert answer.status_code == 200, answer.text
        assert answer.content == expected


def test_tokens_of_other_weights_are_refused(http: httpx.Client) -> None:
    other = "0" * 32
    ids = np.zeros((16, 3), np.uint16)
    for body, form in (
        (npz(ids=ids, fingerprint=np.array(other)), NPZ),
        (save_safetensors({"ids": ids}, {"fingerprint": other}), SAFETENSORS),
        (bytes(24), PACKED),
    ):
        answer = detokenize(http, body, form, **{"Flowmo-Fingerprint": other})
        assert (answer.status_code, answer.json()["code"]) == (409, "container-mismatch")


# --- batches ------------------------------------------------------------------------------------

FILES = [("item", ("a", PNG)), ("item", ("b", b"no picture")), ("item", ("c", JPEG))]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_keeps_the_order_and_tells_what_failed(http: httpx.Client, form: str) -> None:
    answer = http.post("/v1/tokenize/batch", files=FILES, headers={"Accept": form})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == form
    assert answer.headers["Flowmo-Item-Status"] == "200,415,200"
    singles = [
        http.post(
            "/v1/tokenize",
            content=one,
            headers={"Content-Type": "application/octet-stream", "Accept": form},
        ).content
        for one in (PNG, JPEG)
    ]
    if form not in ARRAYS:
        assert answer.content == b"".join(singles)
    else:
        read = load_safetensors(answer.content) if form == SAFETENSORS else _load(answer.content)
        assert read["ids"].shape == (3, 16, 3)
        assert read["status"].tolist() == [200, 415, 200]
        first, last = (TokenArray.from_bytes(one, form, most=10**6).ids for one in singles)
        assert np.array_equal(read["ids"][[0, 2]], [first, last])
        assert not read["ids"][1].any()
    again = http.post(
        "/v1/detokenize/batch", content=answer.content, headers={"Content-Type": form}
    )
    statuses = [item["status"] for item in again.json()["items"]]
    assert statuses == ([200, 422, 200] if form in ARRAYS else [200, 200])
    alone = detokenize(http, singles[-1], form)
    last_item = again.json()["items"][-1]
    assert last_item["media_type"] == "image/png"
    assert _decoded(last_item["image"]) == alone.content


def _load(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return dict(archive)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)


def test_lines_come_with_their_index_and_a_count(http: httpx.Client) -> None:
    for route in ("tokenize", "reconstruct"):
        plain = http.post(f"/v1/{route}/batch", files=FILES).json()
        answer = http.post(
            f"/v1/{route}/batch", files=FILES, headers={"Accept": "application/x-ndjson"}
        )
        assert answer.headers["Content-Type"].startswith("application/x-ndjson")
        *lines, counts = (json.loads(line) for line in answer.text.splitlines())
        assert counts == {"succeeded": 2, "failed": 1}
        by_index = {line["index"]: line for line in lines}
        assert sorted(by_index) == [0, 1, 2]
        for index, item in enumerate(plain["items"]):
            assert by_index[index].keys() == {*item.keys(), "index"}
            for name in item.keys() - {"problem"}:
                assert by_index[index][name] == item[name]
        if route == "tokenize":  # a line is an item of detokenize as it is
            again = http.post("/v1/detokenize/batch", json={"items": lines[:1]}).json()
            assert again["items"][0]["status"] in {200, 422}


def test_whoever_leaves_the_lines_ends_what_is_not_made(http: httpx.Client) -> None:
    files = [("item", ("a", PNG)), *[("item", ("b", JPEG))] * 7]
    with http.stream(
        "POST",
        "/v1/reconstruct/batch",
        files=files,
        params={"steps": 1000},
        headers={"Accept": "application/x-ndjson"},
    ) as answer:
        assert answer.status_code == 200
        _until(lambda: _depth(http) > 0)
    _until(lambda: _depth(http) == 0, seconds=10)


def _depth(http: httpx.Client) -> float:
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("flowmo_queue_depth{"))


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_damaged_container_among_others_is_an_item_of_its_own(http: httpx.Client) -> None:
    one = tokenize(http, MEDIA_TYPE).content
    damaged = one[:-1] + bytes([one[-1] ^ 1])
    answer = http.post(
        "/v1/detokenize/batch", content=one + damaged + one, headers={"Content-Type": MEDIA_TYPE}
    )
    assert [item["status"] for item in answer.json()["items"]] == [200, 400, 200]


def test_containers_are_told_apart_by_their_lengths(http: httpx.Client) -> None:
    one = tokenize(http, MEDIA_TYPE).content
    # Version 2: two tiles of three bytes behind a header of 64.
    fields = struct.pack("<HHHBBIIIIIIII", 2, 18, 9, 0, 0, 1, 9, 9, 8, 0, 2, 3, 0)
    tiles = one[:8] + fields + bytes(64 - 8 - len(fields)) + bytes(2 * 3 + 4)
    assert split_containers(one + tiles + one, most=64) == [one, tiles, one]
    assert len(split_containers(one * 9, most=3)) == 4


@pytest.mark.parametrize("form", FORMS)
def test_too_many_items_are_refused(http: httpx.Client, form: str) -> None:
    one = np.zeros((65, 16, 3), np.uint16)
    container = tokenize(http, MEDIA_TYPE).content
    body = {
        NPZ: npz(ids=one),
        SAFETENSORS: save_safetensors({"ids": one}),
        PACKED: bytes(24 * 65),
        MEDIA_TYPE: container * 65,
    }[form]
    answer = http.post("/v1/detokenize/batch", content=body, headers={"Content-Type": form})
    assert answer.status_code == 422
    assert "1 to 64 items" in answer.text


# --- files of strangers -------------------------------------------------------------------------


def zipped(name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array([[{}]], dtype=object))
    return buffer.getvalue()


HOSTILE = {
    "a bomb": (zipped("ids.npy", bytes(50_000_000)), NPZ, "inflates to more"),
    "a pickle": (pickled(), NPZ, "neither whole numbers nor text"),
    "many members": (npz(**{f"a{i}": 1 for i in range(20)}), NPZ, "members"),
    "another method": (zipped("ids.npy", b"x", zipfile.ZIP_LZMA), NPZ, "stored or deflated"),
    "a large shape": (
        zipped(
            "ids.npy",
            header("{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999, 99999)}\n"),
        ),
        NPZ,
        "npz",
    ),
    "code in a header": (zipped("ids.npy", header("__import__('os')\n")), NPZ, "npz"),
    "no zip": (b"PK no zip", NPZ, "npz"),
    "no ids": (npz(tokens=np.zeros((16, 3), np.uint16)), NPZ, "an array ids"),
    "fractions": (npz(ids=np.zeros((16, 3))), NPZ, "whole numbers"),
    "a flat array": (npz(ids=np.zeros(48, np.uint16)), NPZ, "an array ids"),
    "two pictures": (npz(ids=np.zeros((2, 16, 3), np.uint16)), NPZ, "/v1/detokenize/batch"),
    "far too large": (npz(ids=np.zeros((300, 300), np.int64)), NPZ, "take at most"),
    "no safetensors": (b"\xff" * 40, SAFETENSORS, "no safetensors"),
    "a long header": (struct.pack("<Q", 2**60) + b"{}", SAFETENSORS, "no safetensors"),
    "floats": (save_safetensors({"ids": np.zeros((16, 3), np.float32)}), SAFETENSORS, "F32"),
    "a group of text": (
        save_safetensors({"ids": np.zeros((16, 3), np.uint16)}, {"group_bits": "four"}),
        SAFETENSORS,
        "group_bits",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(http: httpx.Client, name: str) -> None:
    body, form, said = HOSTILE[name]
    answer = detokenize(http, body, form)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "malformed-body"
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("shape", [(16, 4), (15, 3)])
@pytest.mark.parametrize("value", [0, -1, 16])
def test_ids_of_no_model_are_refused(
    http: httpx.Client, shape: tuple[int, int], value: int
) -> None:
    answer = detokenize(http, npz(ids=np.full(shape, value, np.int32)), NPZ)
    assert answer.status_code in {409, 422}, answer.text


def test_bits_behind_the_last_are_zero(http: httpx.Client) -> None:
    answer = detokenize(http, bytes(25), PACKED)
    assert (answer.status_code, answer.json()["code"]) == (400, "not-a-container")


@given(data=st.binary(max_size=400), form=st.sampled_from(ARRAYS), flip=st.integers(0, 10**6))
def test_any_file_is_read_or_refused(data: bytes, form: str, flip: int) -> None:
    good = bytearray(
        npz(ids=np.zeros((2, 3), np.uint16))
        if form == NPZ
        else save_safetensors({"ids": np.zeros((2, 3), np.uint16)}, {"group_bits": "4"})
    )
    good[flip % len(good)] ^= 1 + flip % 255
    for body in (data, bytes(good)):
        try:
            array = TokenArray.from_bytes(body, form, most=100_000)
        except RequestError:
            continue
        assert array.ids.ndim in {2, 3}
