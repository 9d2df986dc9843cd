"""The Open Inference Protocol, by Triton's own client, unmodified, on a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.service.errors import RequestError
from flowmo.service.http.oip.tensors import InferAnswer, Placement, Tensor, encode, parse
from tests.service.http.test_fuzz import over_http
from tests.service.pictures import as_file, from_file, gradient

PNG = as_file(gradient())
SQUARE = gradient(32, 32)


@pytest.fixture(scope="module")
def two(
    checkpoint: Path,
    other_checkpoint: Path,
    prior_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    arguments = [
        f"--model=first={checkpoint}",
        f"--model=other={other_checkpoint}",
        f"--prior={prior_checkpoint}",
        "--threads=1",
    ]
    log = tmp_path_factory.mktemp("oip") / "server.log"
    with ServerProcess(arguments, log=log) as process:
        yield process
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def triton(two: ServerProcess) -> Iterator[Any]:
    client = InferenceServerClient(two.url.removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def plain(two: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=two.url, timeout=60) as client:
        yield client


def tensor(name: str, values: Any, datatype: str, *, binary: bool = True) -> Any:
    array = np.asarray(values)
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def elements(name: str, *data: bytes) -> Any:
    made = InferInput(name, [len(data)], "BYTES")
    made.set_data_from_numpy(np.array(data, dtype=np.object_))
    return made


def test_the_client_finds_out_what_there_is(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["name"] == "flowmo-serve"
    for name in ("tokenize", "detokenize"):
        assert triton.is_model_ready(name)
        assert triton.is_model_ready(name, "other")
        shown = triton.get_model_metadata(name)
        assert (shown["name"], shown["versions"]) == (name, ["first", "other"])
    shown = triton.get_model_metadata("detokenize", "other")
    assert shown["inputs"][0] == {"name": "ids", "datatype": "INT32", "shape": [-1, 16, 3]}
    assert shown["outputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
    assert not triton.is_model_ready("tokenize", "best")
    with pytest.raises(InferenceServerException, match=r"unknown-model.*first, other"):
        triton.get_model_metadata("tokenize", "best")
    with pytest.raises(InferenceServerException):
        triton.get_model_metadata("classify")


@pytest.mark.parametrize("version", ["", "first", "other"])
def test_images_become_the_same_tokens_as_by_the_other_route(
    triton: Any, plain: httpx.Client, version: str
) -> None:
    alone = plain.post(
        "/v1/tokenize",
        content=PNG,
        headers={"Content-Type": "image/png"},
        params={"model": version or "first", "fit": "pad"},
    ).json()["tokens"]
    answer = triton.infer(
        "tokenize",
        [elements("file", PNG, as_file(SQUARE))],
        model_version=version,
        request_id="mine",
        parameters={"fit": "pad"},
        outputs=[InferRequestedOutput("ids"), InferRequestedOutput("container")],
    )
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_version"] == (version or "first")
    ids = answer.as_numpy("ids")
    assert (ids.shape, ids.dtype) == ((2, 16, 3), np.dtype("int32"))
    assert ids[:1].tolist() == alone["ids"]
    pixels = triton.infer(
        "tokenize",
        [tensor("image", SQUARE[None], "UINT8", binary=False)],
        model_version=version,
        outputs=[InferRequestedOutput("ids", binary_data=False)],
    )
    assert pixels.as_numpy("ids")[0].tolist() == ids[1].tolist()
    back = triton.infer(
        "detokenize",
        [elements("container", *answer.as_numpy("container").tolist())],
        model_version=version,
        parameters={"seed": 4},
    )
    assert back.as_numpy("image").shape == (2, 32, 32, 3)


def test_pictures_of_any_size_go_as_containers_and_files(triton: Any, plain: httpx.Client) -> None:
    wide = as_file(gradient(80, 40))
    container = [InferRequestedOutput("container")]
    answer = triton.infer("tokenize", [elements("file", wide, PNG)], outputs=container)
    packed = answer.as_numpy("container").tolist()
    alone = plain.post(
        "/v1/tokenize", content=wide, headers={"Content-Type": "image/png", "Accept": MEDIA_TYPE}
    )
    assert packed[0] == alone.content
    assert Container.from_bytes(packed[0]).layout.tiles == 6
    sparse = triton.infer(
        "tokenize", [elements("file", wide)], outputs=container, parameters={"overlap": 0.0}
    )
    assert Container.from_bytes(sparse.as_numpy("container")[0]).overlap == 0
    back = triton.infer(
        "detokenize",
        [elements("container", *packed)],
        outputs=[InferRequestedOutput("file")],
        parameters={"steps": 1},
    )
    shapes = [from_file(data).shape for data in back.as_numpy("file")]
    assert shapes == [(40, 80, 3), (32, 32, 3)]
    # A tensor's rows have one shape: ids are of a square unless it is asked otherwise.
    assert triton.infer("tokenize", [elements("file", wide)]).as_numpy("ids").shape == (1, 16, 3)
    with pytest.raises(InferenceServerException, match="takes 6 tiles.* container alone"):
        triton.infer("tokenize", [elements("file", wide)], parameters={"fit": "native"})
    with pytest.raises(InferenceServerException, match="80 x 40 pixels.* output file alone"):
        triton.infer("detokenize", [elements("container", packed[0])])


@pytest.mark.parametrize("datatype", ["INT32", "INT64", "UINT16"])
def test_tokens_become_the_same_images_with_a_seed_a_row(
    triton: Any, plain: httpx.Client, datatype: str
) -> None:
    ids = np.full((2, 16, 3), 9, np.int32)
    alone = [
        from_file(
            plain.post(
                "/v1/detokenize",
                json={"tokens": {"ids": ids[0].tolist()}, "seed": seed, "steps": 3},
            ).content
        )
        for seed in (5, 6)
    ]
    answer = triton.infer(
        "detokenize",
        [
            tensor("ids", ids.astype(datatype.lower()), datatype),
            tensor("seed", np.array([5, 6], np.int64), "INT64"),
        ],
        parameters={"steps": 3},
        outputs=[InferRequestedOutput("image"), InferRequestedOutput("file")],
    )
    images = answer.as_numpy("image")
    for image, file, other in zip(images, answer.as_numpy("file"), alone, strict=True):
        assert (np.abs(image.astype(int) - other) <= 1).mean() >= 0.999
        assert (from_file(file) == image).all()


@pytest.mark.parametrize(
    ("model", "inputs", "parameters", "said"),
    [
        ("tokenize", [("image", np.zeros((1, 31, 32, 3), np.uint8), "UINT8")], {}, "bad-tensor"),
        ("tokenize", [("image", np.zeros((1, 32, 32, 3), np.int32), "INT32")], {}, "UINT8"),
        ("tokenize", [("pixel", np.zeros((1, 32, 32, 3), np.uint8), "UINT8")], {}, "image or file"),
        ("tokenize", [("image", np.zeros((65, 32, 32, 3), np.uint8), "UINT8")], {}, "at most 64"),
        ("tokenize", [("image", SQUARE[None], "UINT8")], {"fits": "pad"}, "parameters.fits"),
        ("detokenize", [("ids", np.full((1, 16, 3), 16, np.int32), "INT32")], {}, "0 to 15"),
        ("detokenize", [("ids", np.zeros((1, 16, 3), np.int32), "INT32")], {"steps": 0}, "steps"),
        ("detokenize", [("ids", np.zeros((1, 16), np.int32), "INT32")], {}, "rows, 16, 3"),
    ],
)
def test_what_does_not_fit_is_told(
    triton: Any,
    model: str,
    inputs: list[tuple[str, Any, str]],
    parameters: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(InferenceServerException, match=said) as error:
        triton.infer(model, [tensor(*one) for one in inputs], parameters=parameters)
    assert error.value.status() in {"400", "422"}


def test_a_bad_row_is_named(triton: Any) -> None:
    with pytest.raises(InferenceServerException, match="unsupported-image: row 1"):
        triton.infer("tokenize", [elements("file", PNG, b"no picture")])
    with pytest.raises(InferenceServerException, match="not-a-container: row 0"):
        triton.infer("detokenize", [elements("container", b"no container")])


def test_no_rows_give_no_rows(triton: Any) -> None:
    empty = np.zeros((0, 32, 32, 3), np.uint8)
    answer = triton.infer("tokenize", [tensor("image", empty, "UINT8")])
    assert answer.as_numpy("ids").shape == (0, 16, 3)


# --- the form of tensors ------------------------------------------------------------------------


@given(
    numbers=st.lists(st.integers(0, 255), max_size=12),
    texts=st.lists(st.binary(max_size=20), max_size=6),
    binary=st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_what_is_written_is_read_again(
    numbers: list[int], texts: list[bytes], binary: list[bool]
) -> None:
    if not binary[1]:
        texts = [text.hex().encode() for text in texts]
    values = np.array(numbers, np.int32).reshape(-1, 1)
    outputs = [Tensor("a", values.shape, values), Tensor("b", (len(texts),), texts)]
    placements = [Placement(one) for one in binary]
    answer = encode(InferAnswer(model_name="m", model_version="v"), outputs, placements)
    length = len(answer.body) if answer.header_length is None else answer.header_length
    head = json.loads(answer.body[:length])
    body = json.dumps({"inputs": head["outputs"]}).encode()
    parsed = parse(body + answer.body[length:], str(len(body)))
    assert np.array_equal(parsed.tensors["a"].values, values)
    assert parsed.tensors["b"].values == texts


TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "file", "ids", "container", "seed"]),
        "shape": st.lists(st.integers(-1, 2**40), max_size=4),
        "datatype": st.sampled_from(["UINT8", "INT32", "BYTES", "FP16", "INT64"]),
    },
    optional={
        "data": st.recursive(
            st.integers() | st.text(max_size=5) | st.none() | st.floats(),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=6,
        ),
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "x"]), st.integers() | st.booleans(), max_size=2
        ),
    },
)


@given(
    inputs=st.lists(TENSORS, max_size=3),
    tail=st.binary(max_size=30),
    length=st.none() | st.text(max_size=4),
)
@settings(max_examples=300)
def test_any_request_is_read_or_refused(
    inputs: list[dict[str, Any]], tail: bytes, length: str | None
) -> None:
    body = json.dumps({"inputs": inputs}).encode()
    for header in (length, str(len(body))):
        try:
            parsed = parse(body + tail, header)
        except RequestError:
            continue
        assert len(parsed.tensors) == len(inputs)


@over_http
@given(inputs=st.lists(TENSORS, max_size=2), tail=st.binary(max_size=30))
def test_any_request_is_answered(
    http: httpx.Client, inputs: list[dict[str, Any]], tail: bytes
) -> None:
    body = json.dumps({"inputs": inputs}).encode()
    for model in ("tokenize", "detokenize"):
        answer = http.post(
            f"/v2/models/{model}/infer",
            content=body + tail,
            headers={"Inference-Header-Content-Length": str(len(body))},
        )
        assert answer.status_code < 500, answer.text
        if not answer.is_success:
            assert isinstance(answer.json()["error"], str)


def test_the_version_with_a_prior_generates(triton: Any, plain: httpx.Client) -> None:
    shown = triton.get_model_metadata("generate")
    assert shown["versions"] == ["first"]
    assert [one["name"] for one in shown["inputs"]] == ["class", "seed", "ids", "mask"]
    with pytest.raises(InferenceServerException, match="no-prior"):
        triton.get_model_metadata("generate", "other")
    inputs = [elements("class", b"dog", b"", b"1"), tensor("seed", np.array([5, 6, 5]), "INT64")]
    outputs = [InferRequestedOutput(name) for name in ("ids", "container", "image", "file")]
    parameters = {"steps": 3, "decode_steps": 2}
    made = triton.infer("generate", inputs, outputs=outputs, parameters=parameters)
    ids = made.as_numpy("ids")
    assert (ids[0] == ids[2]).all()
    assert (ids[0] != ids[1]).any()
    assert (Container.from_bytes(made.as_numpy("container")[1]).tokens.ids == ids[1]).all()
    answer = plain.post("/v1/generate", json={"class": "dog", "seed": 5, "steps": 3})
    assert answer.json()["items"][0]["tokens"]["ids"] == [ids[0].tolist()]
    assert (from_file(made.as_numpy("file")[0]) == made.as_numpy("image")[0]).all()

    mask = np.zeros((1, 16), np.uint8)
    mask[0, :8] = 1
    kept = [tensor("ids", ids[:1], "INT32"), tensor("mask", mask, "UINT8")]
    edited = triton.infer("generate", kept, parameters={"seed": 9}).as_numpy("ids")
    assert (edited[0, :8] == ids[0, :8]).all()
    assert (edited[0] != ids[0]).any()
    with pytest.raises(InferenceServerException, match="ids and mask go together"):
        triton.infer("generate", kept[:1])
