"""The protocol's extensions, by Triton's own HTTP client, unmodified, on a real server."""

from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

from flowmo.cli.server_process import ServerProcess
from flowmo.service.errors import TensorError
from flowmo.service.http.oip.shared_memory import REGION, SIZE, Region, Regions
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())
SQUARE = gradient(32, 32)


@pytest.fixture(scope="module")
def sharing(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("sharing") / "server.log"
    arguments = [f"--model=first={checkpoint}", "--threads=1", "--shared-memory"]
    with ServerProcess(arguments, log=log) as process:
        yield process
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def triton(sharing: ServerProcess) -> Iterator[Any]:
    client = InferenceServerClient(sharing.url.removeprefix("http://"))
    yield client
    client.close()


def elements(name: str, *data: bytes) -> Any:
    made = InferInput(name, [len(data)], "BYTES")
    made.set_data_from_numpy(np.array(data, dtype=np.object_))
    return made


def test_ids_may_be_half_as_wide(triton: Any) -> None:
    wide = triton.infer("tokenize", [elements("file", PNG)]).as_numpy("ids")
    narrow = triton.infer(
        "tokenize", [elements("file", PNG)], parameters={"ids_datatype": "UINT16"}
    ).as_numpy("ids")
    assert (wide.dtype, narrow.dtype) == (np.int32, np.uint16)
    assert np.array_equal(wide, narrow)


def test_rows_that_fail_cost_the_others_nothing_when_errors_are_asked_for(triton: Any) -> None:
    answer = triton.infer(
        "tokenize",
        [elements("file", PNG, b"no picture", PNG)],
        outputs=[InferRequestedOutput(name) for name in ("ids", "container", "error")],
    )
    ids, errors = answer.as_numpy("ids"), answer.as_numpy("error").tolist()
    assert errors[0] == errors[2] == b""
    assert errors[1].startswith(b"unsupported-image: ")
    assert np.array_equal(ids[0], ids[2])
    assert ids[0].any()
    assert not ids[1].any()
    containers = answer.as_numpy("container").tolist()
    assert containers[1] == b""
    back = triton.infer(
        "detokenize",
        [elements("container", *containers)],
        outputs=[InferRequestedOutput(name) for name in ("image", "file", "error")],
    )
    assert [error == b"" for error in back.as_numpy("error")] == [True, False, True]
    assert not back.as_numpy("image")[1].any()
    assert np.array_equal(back.as_numpy("image")[0], back.as_numpy("image")[2])


def test_config_and_index(triton: Any) -> None:
    config = triton.get_model_config("detokenize")
    assert config["max_batch_size"] == 64
    assert config["input"][0] == {
        "name": "ids",
        "data_type": "TYPE_INT32",
        "dims": [16, 3],
        "optional": True,
    }
    assert [one["name"] for one in config["output"]] == ["image", "file", "error"]
    index = triton.get_model_repository_index()
    assert {(one["name"], one["version"], one["state"]) for one in index} == {
        ("tokenize", "first", "READY"),
        ("detokenize", "first", "READY"),
    }


def test_statistics_count_rows_and_requests(triton: Any) -> None:
    def found() -> Any:
        (one,) = triton.get_inference_statistics("tokenize")["model_stats"]
        return one

    before = found()
    triton.infer("tokenize", [elements("file", PNG, PNG, PNG)])
    with pytest.raises(InferenceServerException):
        triton.infer("tokenize", [elements("file", b"no picture")])
    after = found()
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    old, new = before["inference_stats"], after["inference_stats"]
    assert new["success"]["count"] - old["success"]["count"] == 1
    assert new["fail"]["count"] - old["fail"]["count"] == 1
    for part in ("compute_input", "compute_infer"):
        assert new[part]["ns"] > old[part]["ns"]
    assert len(triton.get_inference_statistics()["model_stats"]) == 2


# --- shared memory ------------------------------------------------------------------------------


def test_tensors_travel_in_shared_memory(triton: Any) -> None:
    name = f"/flowmo-{uuid4().hex}"
    expected = triton.infer("tokenize", [_pixels()]).as_numpy("ids")
    handle = shm.create_shared_memory_region("both", name, SQUARE.nbytes + 192)
    try:
        shm.set_shared_memory_region(handle, [SQUARE[None]])
        triton.register_system_shared_memory("both", name, SQUARE.nbytes + 192)
        assert [one["name"] for one in triton.get_system_shared_memory_status()] == ["both"]
        sent = InferInput("image", [1, 32, 32, 3], "UINT8")
        sent.set_shared_memory("both", SQUARE.nbytes)
        wanted = InferRequestedOutput("ids")
        wanted.set_shared_memory("both", 192, offset=SQUARE.nbytes)
        answer = triton.infer("tokenize", [sent], outputs=[wanted])
        assert answer.get_output("ids")["parameters"]["shared_memory_region"] == "both"
        ids = shm.get_contents_as_numpy(handle, np.int32, [1, 16, 3], offset=SQUARE.nbytes)
        assert np.array_equal(ids, expected)
        wanted.set_shared_memory("both", 64)
        with pytest.raises(InferenceServerException, match="do not fit"):
            triton.infer("tokenize", [sent], outputs=[wanted])
        triton.unregister_system_shared_memory("both")
        with pytest.raises(InferenceServerException, match="there is no region"):
            triton.infer("tokenize", [sent])
    finally:
        shm.destroy_shared_memory_region(handle)
    assert triton.get_system_shared_memory_status() == []
    assert triton.get_cuda_shared_memory_status() == []
    triton.unregister_cuda_shared_memory()


def _pixels() -> Any:
    made = InferInput("image", [1, 32, 32, 3], "UINT8")
    made.set_data_from_numpy(SQUARE[None])
    return made


def test_it_is_off_unless_the_operator_allows_it(http: httpx.Client) -> None:
    answer = http.post(
        "/v2/systemsharedmemory/region/a/register", json={"key": "/a", "byte_size": 1}
    )
    assert answer.status_code == 400
    assert "--shared-memory" in answer.json()["error"]


@pytest.mark.parametrize("key", ["/../etc/passwd", "/a/b", "..", "/.", "", "/no-such-object"])
def test_keys_that_are_no_objects(key: str) -> None:
    regions = Regions(enabled=True, max_bytes=100)
    with pytest.raises(TensorError):
        regions.register(None, Region(name="a", key=key, offset=0, byte_size=1))


def test_a_region_that_is_shortened_or_anothers_is_an_error() -> None:
    memory = SharedMemory(create=True, size=64)
    try:
        regions = Regions(enabled=True, max_bytes=100)
        regions.register("a", Region(name="r", key=memory.name, offset=0, byte_size=64))
        where: dict[str, object] = {REGION: "r", SIZE: 64}
        assert regions.read("a", where) == bytes(64)
        with pytest.raises(TensorError, match="no region"):
            regions.read("b", where)
        with pytest.raises(TensorError, match="beyond the region"):
            regions.read("a", {REGION: "r", SIZE: 65})
        (Path("/dev/shm") / memory.name).write_bytes(b"short")
        with pytest.raises(TensorError, match="has 5 bytes"):
            regions.read("a", where)
    finally:
        memory.close()
        memory.unlink()
