"""The protocol over gRPC, by Triton's own client, unmodified, on a real server."""

import queue
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import Container
from flowmo.service.grpc.messages import HEALTH_MESSAGES, SERVING
from flowmo.service.grpc.server import _is_local
from flowmo.service.http.keys import digest_of
from tests.flowmo.test_cli import flowmo
from tests.service.pictures import as_file, from_file, gradient

PNG = as_file(gradient())
SQUARE = gradient(32, 32)
KEY = {"authorization": "Bearer secret"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


class Served:
    """A server with both ports, and a client of each."""

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.grpc = InferenceServerClient(self.address)
        self.http = httpx.Client(base_url=process.url, timeout=60)

    def close(self) -> None:
        self.grpc.close()
        self.http.close()


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("grpc") / "server.log"
    port = free_port()
    arguments = [
        f"--checkpoint={checkpoint}",
        f"--grpc-port={port}",
        "--threads=1",
        "--shared-memory",
        "--max-body-bytes=1000000",
        f"--api-keys=team:{digest_of('secret')}",
    ]
    with ServerProcess(arguments, log=log) as process:
        both = Served(process, port)
        yield both
        both.close()
    assert "Traceback" not in log.read_text()


def tensor(name: str, values: Any, datatype: str) -> Any:
    array = np.asarray(values)
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def elements(name: str, *data: bytes) -> Any:
    return tensor(name, np.array(data, dtype=np.object_), "BYTES")


def test_the_client_finds_out_what_there_is(served: Served) -> None:
    client = served.grpc
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "flowmo-serve"
    assert client.is_model_ready("tokenize", headers=KEY)
    shown = client.get_model_metadata("detokenize", "nano", headers=KEY)
    assert (shown.name, list(shown.versions)) == ("detokenize", ["nano"])
    assert (shown.inputs[0].name, list(shown.inputs[0].shape)) == ("ids", [-1, 16, 3])
    config = client.get_model_config("detokenize", headers=KEY).config
    assert config.max_batch_size == 64
    assert config.input[0].data_type == 8  # TYPE_INT32
    assert list(config.output[0].dims) == [32, 32, 3]
    index = client.get_model_repository_index(headers=KEY).models
    assert [(one.name, one.state) for one in index] == [
        ("tokenize", "READY"),
        ("detokenize", "READY"),
    ]


def test_there_and_back_is_as_over_http(served: Served) -> None:
    alone = served.http.post(
        "/v1/tokenize",
        content=PNG,
        headers={"Content-Type": "image/png", "Authorization": KEY["authorization"]},
        params={"fit": "pad"},
    ).json()
    answer = served.grpc.infer(
        "tokenize",
        [elements("file", PNG, PNG)],
        request_id="mine",
        parameters={"fit": "pad", "ids_datatype": "UINT16"},
        headers=KEY,
    )
    assert answer.get_response().id == "mine"
    ids = answer.as_numpy("ids")
    assert (ids.dtype, ids.shape) == (np.uint16, (2, 16, 3))
    assert ids[0].tolist() == alone["tokens"]["ids"][0]  # of its one tile
    picture = served.http.post(
        "/v1/detokenize",
        json={**alone, "seed": 7, "steps": 3},
        headers={"Authorization": KEY["authorization"]},
    )
    back = served.grpc.infer(
        "detokenize",
        [tensor("ids", ids, "UINT16"), tensor("seed", np.array([7, 8]), "INT64")],
        parameters={"steps": 3},
        outputs=[InferRequestedOutput("image"), InferRequestedOutput("file")],
        headers=KEY,
    )
    images = back.as_numpy("image")
    assert (np.abs(images[0].astype(int) - from_file(picture.content)) <= 1).mean() >= 0.999
    assert np.array_equal(from_file(back.as_numpy("file")[1]), images[1])


def test_a_picture_of_many_tiles_is_a_container_and_a_file(served: Served) -> None:
    wide = elements("file", as_file(gradient(80, 40)))
    with pytest.raises(InferenceServerException, match="takes 6 tiles.* container alone"):
        served.grpc.infer("tokenize", [wide], parameters={"fit": "native"}, headers=KEY)
    (packed,) = served.grpc.infer(
        "tokenize", [wide], outputs=[InferRequestedOutput("container")], headers=KEY
    ).as_numpy("container")
    assert Container.from_bytes(packed).layout.tiles == 6
    with pytest.raises(InferenceServerException, match="80 x 40 pixels.* output file alone"):
        served.grpc.infer("detokenize", [elements("container", packed)], headers=KEY)
    (file,) = served.grpc.infer(
        "detokenize",
        [elements("container", packed)],
        parameters={"steps": 1},
        outputs=[InferRequestedOutput("file")],
        headers=KEY,
    ).as_numpy("file")
    assert from_file(file).shape == (40, 80, 3)


def test_statistics_are_those_of_both_ports(served: Served) -> None:
    def rows() -> int:
        (one,) = served.grpc.get_inference_statistics("tokenize", headers=KEY).model_stats
        assert one.inference_stats.success.count == one.execution_count
        count: int = one.inference_count
        return count

    before = rows()
    served.grpc.infer("tokenize", [elements("file", PNG, PNG)], headers=KEY)
    assert rows() == before + 2
    text = served.http.get("/metrics").text
    assert 'route="/inference.GRPCInferenceService/ModelInfer",status="200"' in text


def test_errors_are_statuses(served: Served) -> None:
    def refused(*arguments: Any, **options: Any) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as error:
            served.grpc.infer(*arguments, **{"headers": KEY, **options})
        return error.value.status(), error.value.message()

    good = elements("file", PNG)
    for status, said, found in (
        ("UNAUTHENTICATED", "unauthorized", refused("tokenize", [good], headers={})),
        ("NOT_FOUND", "unknown-model", refused("classify", [good])),
        ("NOT_FOUND", "unknown-model", refused("tokenize", [good], model_version="best")),
        ("INVALID_ARGUMENT", "row 1", refused("tokenize", [elements("file", PNG, b"no picture")])),
        (
            "INVALID_ARGUMENT",
            "parameters.fits",
            refused("tokenize", [good], parameters={"fits": 1}),
        ),
        (
            "INVALID_ARGUMENT",
            "bad-tensor",
            refused("tokenize", [tensor("image", SQUARE[None, :31], "UINT8")]),
        ),
        (
            "RESOURCE_EXHAUSTED",
            "larger than max",
            refused("tokenize", [elements("file", bytes(2**20))]),
        ),
    ):
        assert found[0] == f"StatusCode.{status}", found
        assert said in found[1]
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        served.grpc.load_model("tokenize", headers=KEY)


def test_a_deadline_ends_the_decode(served: Served) -> None:
    tokens = tensor("ids", np.full((1, 16, 3), 9, np.int32), "INT32")
    with pytest.raises(InferenceServerException) as error:
        served.grpc.infer(
            "detokenize", [tokens], parameters={"steps": 1000}, headers=KEY, client_timeout=0.2
        )
    assert error.value.status() in {
        "StatusCode.DEADLINE_EXCEEDED",
        "StatusCode.RESOURCE_EXHAUSTED",  # it would have been done too late, and was not begun
    }
    _until_idle(served)


def test_a_call_that_is_cancelled_ends_its_decode(served: Served) -> None:
    tokens = tensor("ids", np.full((8, 16, 3), 9, np.int32), "INT32")
    answers: queue.Queue[Any] = queue.Queue()
    context = served.grpc.async_infer(
        "detokenize",
        [tokens],
        lambda result, error: answers.put(error),
        parameters={"steps": 1000},
        headers=KEY,
    )
    _until(lambda: _gauge(served, "flowmo_queue_depth") > 0)
    context.cancel()
    assert answers.get(timeout=60).status() == "StatusCode.CANCELLED"
    _until_idle(served)


def test_it_is_cancelled_by_its_id_over_http_too(served: Served) -> None:
    tokens = tensor("ids", np.full((8, 16, 3), 9, np.int32), "INT32")
    answers: queue.Queue[Any] = queue.Queue()
    served.grpc.async_infer(
        "detokenize",
        [tokens],
        lambda result, error: answers.put(error),
        parameters={"steps": 1000},
        headers=KEY | {"x-request-id": "by-name"},
    )
    _until(lambda: _gauge(served, "flowmo_queue_depth") > 0)
    answer = served.http.post(
        "/v1/requests/by-name/cancel", headers={"Authorization": KEY["authorization"]}
    )
    assert answer.json() == {"id": "by-name", "cancelled": 1}
    error = answers.get(timeout=60)
    assert error.status() == "StatusCode.CANCELLED"
    assert "cancelled: its sender" in error.message()


def test_a_stream_answers_each_of_its_requests(served: Served) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    served.grpc.start_stream(lambda result, error: answers.put((result, error)), headers=KEY)
    for data in (PNG, b"no picture", PNG):
        served.grpc.async_stream_infer("tokenize", [elements("file", data)])
    found = [answers.get(timeout=60) for _ in range(3)]
    served.grpc.stop_stream()
    assert [error is None for _, error in found] == [True, False, True]
    assert "unsupported-image" in found[1][1].message()
    assert np.array_equal(found[0][0].as_numpy("ids"), found[2][0].as_numpy("ids"))


def test_tensors_travel_in_shared_memory(served: Served) -> None:
    expected = served.grpc.infer(
        "tokenize", [tensor("image", SQUARE[None], "UINT8")], headers=KEY
    ).as_numpy("ids")
    size = SQUARE.nbytes + 192
    handle = shm.create_shared_memory_region("both", f"/flowmo-grpc-{free_port()}", size)
    try:
        shm.set_shared_memory_region(handle, [SQUARE[None]])
        served.grpc.register_system_shared_memory("both", handle._shm_key, size, headers=KEY)
        status = served.grpc.get_system_shared_memory_status(headers=KEY)
        assert status.regions["both"].byte_size == size
        sent = InferInput("image", [1, 32, 32, 3], "UINT8")
        sent.set_shared_memory("both", SQUARE.nbytes)
        wanted = InferRequestedOutput("ids")
        wanted.set_shared_memory("both", 192, offset=SQUARE.nbytes)
        served.grpc.infer("tokenize", [sent], outputs=[wanted], headers=KEY)
        ids = shm.get_contents_as_numpy(handle, np.int32, [1, 16, 3], offset=SQUARE.nbytes)
        assert np.array_equal(ids, expected)
        served.grpc.unregister_system_shared_memory(headers=KEY)
        served.grpc.unregister_cuda_shared_memory(headers=KEY)
    finally:
        shm.destroy_shared_memory_region(handle)


def test_the_standard_health_check(served: Served) -> None:
    with grpc.insecure_channel(served.address) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        for service in ("", "inference.GRPCInferenceService"):
            request = HEALTH_MESSAGES["HealthCheckRequest"](service=service)
            answer = check(request.SerializeToString(), timeout=10)
            assert HEALTH_MESSAGES["HealthCheckResponse"].FromString(answer).status == SERVING
        with pytest.raises(grpc.RpcError, match="there is no such service"):
            check(HEALTH_MESSAGES["HealthCheckRequest"](service="x").SerializeToString())


def test_bytes_that_are_no_message(served: Served) -> None:
    with grpc.insecure_channel(served.address) as channel:
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as error:
            call(b"\xff" * 40, timeout=10, metadata=tuple(KEY.items()))
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:80", True),
        ("ipv4:10.0.0.1:80", False),
        ("ipv6:%5B::1%5D:80", True),
        ("ipv6:%5B2001:db8::1%5D:80", False),
        ("ipv6:%5B::ffff:127.0.0.1%5D:80", True),
        ("unix:/run/x", True),
        ("", False),
    ],
)
def test_who_is_on_this_machine(peer: str, local: bool) -> None:
    assert _is_local(peer) is local


def _gauge(served: Served, name: str) -> float:
    lines = served.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


def _until(condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def _until_idle(served: Served) -> None:
    _until(lambda: _gauge(served, "flowmo_queue_depth") == 0)


def test_a_taken_port_and_ray_are_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = flowmo("serve", "--port=0", f"--grpc-port={port}")
        assert result.returncode == 2
        assert "--grpc-port" in result.stderr
    result = flowmo("serve", "--ray", "--grpc-port=0")
    assert result.returncode == 2
    assert "Ray" in result.stderr
