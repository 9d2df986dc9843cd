"""What engines ask of a GPU, by a library that is played by this file."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowmo.deploy.graphs import Half
from flowmo.deploy.tensorrt.keys import EngineKey, Manifest
from flowmo.deploy.tensorrt.libraries import Library
from flowmo.deploy.tensorrt.steps import EngineHalf, TensorRTSteps

BINDINGS = {
    "encoder": {"images": "input", "code": "output"},
    "decoder": {"x": "input", "condition": "input", "modulation": "input", "velocity": "output"},
}


class Context:
    """It computes the number of the bucket that it is for, if it has memory to do so."""

    def __init__(self, strategy: str) -> None:
        self.strategy = strategy
        self.memory: tuple[int, int] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> None:
        self.profile, self.stream = profile, stream

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def set_device_memory(self, pointer: int, size: int) -> None:
        self.memory = pointer, size


class Engine:
    def __init__(self, size: int) -> None:
        self.device_memory_size_v2 = size
        self.contexts: list[Context] = []

    def create_execution_context(self, strategy: str) -> Context:
        self.contexts.append(Context(strategy))
        return self.contexts[-1]

    def create_engine_inspector(self) -> SimpleNamespace:
        layers = [
            {"Name": "fused mha", "LayerType": "kgen"},
            {"Name": "node_MatMul", "LayerType": "gemm"},
        ]
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({form: layers}))


def opened(half: Half, engine: Engine) -> EngineHalf:
    api = SimpleNamespace(
        ILogger=object,
        Runtime=lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: engine),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        LayerInformationFormat=SimpleNamespace(JSON="Layers"),
    )
    bindings: dict[str, dict[str, Any]] = {
        name: {"kind": kind, "dtype": "float", "shape": [1]}
        for name, kind in BINDINGS[half].items()
    }
    key = EngineKey(
        half=half,
        fingerprint="0" * 32,
        dtype="float32",
        attention="fused",
        library="tensorrt",
        version="11",
        architecture="sm90",
        buckets=(1, 2, 4),
    )
    manifest = Manifest(key=key, size=0, sha256="", bindings=bindings)
    library = Library("tensorrt", "11", api)
    return EngineHalf(half, b"", manifest, library, torch.device("cpu"), cuda_graphs=False)


@pytest.fixture(autouse=True)
def _a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)


def test_all_batches_of_all_engines_compute_in_the_same_memory() -> None:
    encoder, decoder = Engine(1000), Engine(3000)
    steps = TensorRTSteps(
        {"encoder": opened("encoder", encoder), "decoder": opened("decoder", decoder)}
    )
    contexts = [*encoder.contexts, *decoder.contexts]
    assert len(contexts) == 6
    assert {context.strategy for context in contexts} == {"user managed"}
    assert steps.memory_bytes == 3000
    ((pointer, size),) = {context.memory for context in contexts}  # type: ignore[misc]
    assert (pointer % 64, size) == (0, 3000)
    assert [context.profile for context in decoder.contexts] == [0, 1, 2]
    assert [context.shapes["x"] for context in decoder.contexts] == [(1, 1), (2, 1), (4, 1)]


def test_the_inspector_says_what_the_loaded_engine_is_made_of() -> None:
    report = opened("encoder", Engine(1)).report(depth=1)
    assert list(report) == ["1", "2", "4"]
    for found in report.values():
        assert found["layers"] == {"gemm": 1, "kgen": 1}
        assert found["attention_fused"] == "all"
