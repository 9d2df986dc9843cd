"""What computes a served model, that it is checked first, and what happens where it is missing."""

import functools
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from unittest.mock import ANY

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from flowmo.deploy import golden
from flowmo.deploy.compile_cache import compile_folder, probe_the_compiler, use_compile_cache
from flowmo.deploy.compiled import CompiledSteps, choose_backends, is_inner_linear, quantize
from flowmo.deploy.graphs import HALVES, Half, example
from flowmo.deploy.runners import Runtime, default_cache, graph_folder, install
from flowmo.deploy.threads import fewest_of_the_quickest
from flowmo.model.errors import CompilationError, ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.inference_network import InferenceBlock
from tests.deploy.conftest import block_config

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def load(checkpoint: Path, dtype: torch.dtype = torch.float32) -> InferenceModel:
    return InferenceModel(FlowMo.from_pretrained(str(checkpoint)), dtype=dtype)


class Wrong:
    """Steps whose decoder is a little off, and whose encoder is right."""

    def __init__(self, model: InferenceModel, factor: float) -> None:
        self._model, self._factor = model, factor

    def encode(self, images: Tensor) -> Tensor:
        return self._model.encode(images)

    def velocity(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        return self._model.velocity_modulated(x, modulation, condition) * self._factor


def test_only_what_agrees_with_pytorch_may_serve(small: InferenceModel) -> None:
    assert golden.check(Wrong(small, 1.0), small)["encoder"].compiled < 1e-5
    errors = golden.check(Wrong(small, 1.0005), small)
    assert errors["decoder"].compiled == pytest.approx(5e-4, rel=0.05)
    for factor in (1.002, 0.0, float("nan")):
        with pytest.raises(CompilationError, match="decoder at batch size 2 is .* must not serve"):
            golden.check(Wrong(small, factor), small)


class WrongAt(Wrong):
    """Steps that are wrong at one batch size, as a graph that was captured badly is."""

    def __init__(self, model: InferenceModel, rows: int) -> None:
        super().__init__(model, 1.0)
        self._rows = rows

    def velocity(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        right = super().velocity(x, condition, modulation)
        return right.flip(0) if len(x) == self._rows else right


def test_each_batch_size_is_checked(small: InferenceModel) -> None:
    golden.check(WrongAt(small, 16), small, (1, 2, 4))
    for rows in (2, 4, 12):
        with pytest.raises(CompilationError, match=f"decoder at batch size {rows} "):
            golden.check(WrongAt(small, rows), small, (1, 2, 4, 12))


def test_a_models_backends_are_its_own(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)
    monkeypatch.setattr("flowmo.deploy.compiled.ranked_backends", lambda **_: chosen)
    one, other = (load(small_checkpoint, torch.bfloat16) for _ in range(2))
    choose_backends(one)

    def backends(model: InferenceModel) -> set[tuple[SDPBackend, ...]]:
        halves = (model.encoder, model.decoder)
        blocks = [m for half in halves for m in half.modules() if isinstance(m, InferenceBlock)]
        assert len(blocks) == 4
        return {block.attention_backends for block in blocks}

    assert backends(one) == {chosen}
    assert backends(other) == {()}


def test_fp8_leaves_the_rest_of_the_process_alone(
    small: InferenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    careless = False

    def config(**options: object) -> dict[str, object]:
        asked.append(options)
        return options

    def quantize_(module: nn.Module, _: object, filter_fn: object) -> None:
        if careless:  # as torchao is unless it is told not to
            torch.set_float32_matmul_precision("high")

    package = ModuleType("torchao.quantization")
    package.Float8DynamicActivationFloat8WeightConfig = config  # type: ignore[attr-defined]
    package.PerRow = object  # type: ignore[attr-defined]
    package.quantize_ = quantize_  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", package)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (9, 0))
    monkeypatch.setattr(small, "device", torch.device("cuda"))
    before = torch.get_float32_matmul_precision()
    try:
        quantize(small)
        assert asked[0]["set_inductor_config"] is False
        assert torch.get_float32_matmul_precision() == before
        careless = True
        with pytest.raises(CompilationError, match="torchao changed how this process computes"):
            quantize(small)
    finally:
        torch.set_float32_matmul_precision(before)


def test_in_bfloat16_its_own_error_is_the_measure(small_checkpoint: Path) -> None:
    model = load(small_checkpoint, torch.bfloat16)
    right = golden.check(Wrong(model, 1.0), model)
    for half, error in right.items():
        assert error.compiled == pytest.approx(error.plain, rel=1e-3), half
        assert 1e-3 < error.plain < 0.1
    with pytest.raises(CompilationError, match="compiled decoder"):
        golden.check(Wrong(model, 1 + 3 * right["decoder"].plain + golden.SLACK), model)


def test_what_may_be_damaged_is_named(
    small: InferenceModel, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NameError("name 'garbage' is not defined")

    monkeypatch.setattr(golden, "check", fail)
    monkeypatch.setattr("flowmo.deploy.runners.probe_the_compiler", lambda: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    runtime = Runtime(kind="compiled", cache=tmp_path)
    with pytest.raises(CompilationError, match="'garbage' is not defined$"):  # nothing is kept yet
        install(small, str(small_checkpoint), runtime, (1,))
    (tmp_path / "fxgraph").mkdir()
    with pytest.raises(CompilationError, match=f"kept in {tmp_path} is damaged, delete"):
        install(small, str(small_checkpoint), runtime, (1,))


def test_onnx_runtime_is_exported_once_and_computes(small_checkpoint: Path, tmp_path: Path) -> None:
    def encoder() -> InferenceModel:  # one half takes half as long to export
        return InferenceModel(FlowMo.from_pretrained(str(small_checkpoint)), halves=["encoder"])

    model = encoder()
    missing = Runtime(kind="onnxruntime", cache=tmp_path)
    with pytest.raises(CompilationError, match="is not a file"):
        install(model, str(small_checkpoint), missing, (1, 2))
    build = Runtime(kind="onnxruntime", cache=tmp_path, build=True)
    errors = install(model, str(small_checkpoint), build, (1, 2))
    assert max(error.compiled for error in errors.values()) < 1e-4
    written = {path: path.stat().st_mtime_ns for path in graph_folder(tmp_path, model).iterdir()}
    assert len(written) == 1
    again = encoder()
    install(again, str(small_checkpoint), missing, (1, 2))
    assert {path: path.stat().st_mtime_ns for path in written} == written
    # PyTorch's weights are not kept beside those that serve.
    assert again.memory_by_owner() == {"rotary tables": ANY}
    with pytest.raises(ConfigError, match="encoder were freed when OnnxSteps took over"):
        golden.check(Wrong(again, 1.0), again)


def test_onnx_runtime_computes_in_float32_only(small_checkpoint: Path, tmp_path: Path) -> None:
    model = load(small_checkpoint, torch.bfloat16)
    runtime = Runtime(kind="onnxruntime", cache=tmp_path, build=True)
    with pytest.raises(CompilationError, match="float32 on a CPU"):
        install(model, str(small_checkpoint), runtime, (1, 2))


COMPILES = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # PyTorch's own use of it
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
]


def compiled(
    checkpoint: Path, dtype: torch.dtype, halves: Sequence[Half] = HALVES
) -> tuple[InferenceModel, CompiledSteps]:
    """A model, and its halves compiled at their first call, for batches of two rows."""
    model = InferenceModel(FlowMo.from_pretrained(str(checkpoint)), dtype=dtype, halves=halves)
    return model, CompiledSteps(model, (2,))


@pytest.fixture(scope="module")
def in_bfloat16(one_block_checkpoint: Path) -> tuple[InferenceModel, CompiledSteps]:
    return compiled(one_block_checkpoint, torch.bfloat16)


def agrees(model: InferenceModel, steps: CompiledSteps) -> bool:
    """Whether the halves are as near to float32 as PyTorch's own, at numbers of rows around two."""
    errors = [
        error
        for rows in (1, 2, 3)
        for error in golden.relative_errors(steps, model, rows=rows).values()
    ]
    return all(error.compiled <= golden.FACTOR * error.plain + golden.SLACK for error in errors)


class TestCompiled:
    pytestmark = COMPILES

    def test_float32_agrees_at_any_number_of_rows(self, one_block_checkpoint: Path) -> None:
        # Of one half: the other is compiled in bfloat16, and compiling takes what time there is.
        assert agrees(*compiled(one_block_checkpoint, torch.float32, ["encoder"]))

    def test_bfloat16_agrees_at_any_number_of_rows(
        self, in_bfloat16: tuple[InferenceModel, CompiledSteps]
    ) -> None:
        torch._dynamo.utils.counters.clear()
        assert agrees(*in_bfloat16)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(HALVES)

    def test_blocks_of_a_kind_are_compiled_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Tracing alone says how often: with it the sums are PyTorch's own.
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        model = InferenceModel(FlowMo(block_config(depth=4)))
        steps = CompiledSteps(model, (1, 2))
        torch._dynamo.utils.counters.clear()
        for bucket in (1, 2):
            golden.check(steps, model, (bucket,))
            # In the last block a stream ends; all others are of one kind.
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4 * bucket
        # The model's own blocks are as they were.
        assert all(isinstance(block, InferenceBlock) for block in model.decoder.blocks)

    def test_nothing_compiles_again_whatever_kind_of_tensors_come(
        self, in_bfloat16: tuple[InferenceModel, CompiledSteps]
    ) -> None:
        model, steps = in_bfloat16
        x, condition, modulation = example(model, "decoder", 2)
        expected = steps.velocity(x, condition, modulation)  # compiles, if this test runs alone
        torch._dynamo.utils.counters.clear()
        with torch.inference_mode():
            copies = [torch.stack(list(value)) for value in (x, condition, modulation)]
            assert torch.equal(steps.velocity(*copies), expected)
        strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        assert torch.equal(steps.velocity(strided, condition, modulation), expected)
        one = [value[:1].expand(2, *value.shape[1:]) for value in (x, condition, modulation)]
        steps.velocity(*one)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0


def test_compiled_code_is_kept_in_the_engine_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Set and deleted, so that it is what it was when the test ends.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/own")
    assert use_compile_cache(tmp_path) == Path("/own")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").touch()
    assert use_compile_cache(tmp_path / "file") is None
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    folder = use_compile_cache(tmp_path)
    assert folder == compile_folder(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert torch.__version__ in folder.name
    monkeypatch.setattr("flowmo.deploy.compile_cache._instructions", lambda: "others")
    assert compile_folder(tmp_path) != folder


def test_instructions_are_found_beside_and_failures_stay_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed: list[int] = []

    def probe() -> None:
        probed.append(threading.get_ident())
        raise OSError("no process could be started")

    monkeypatch.setattr("torch._inductor.cpu_vec_isa.pick_vec_isa", probe)
    thread = probe_the_compiler()
    thread.join(60.0)
    assert probed == [thread.ident]
    assert thread.ident != threading.get_ident()


def test_fp8_leaves_input_and_output_as_they_are(small: InferenceModel) -> None:
    for network in (small.encoder, small.decoder):
        chosen = {name for name, module in network.named_modules() if is_inner_linear(module, name)}
        linears = {n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)}
        assert linears - chosen == {n for n in linears if not n.startswith("blocks.")}
        assert {"img_in", "out"} <= linears - chosen
        assert "blocks.0.img.qkv" in chosen


def test_the_fewest_threads_that_are_quickest() -> None:
    times = {1: 1.0, 2: 0.6, 4: 0.595, 8: 0.9, 16: 0.5}
    assert fewest_of_the_quickest([1, 2, 4, 8], times.__getitem__) == 2
    assert fewest_of_the_quickest(times, times.__getitem__) == 16


def test_the_cache_is_the_users_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.delenv("FLOWMO_ENGINE_CACHE", raising=False)
    assert default_cache() == Path("/caches/flowmo/engines")
    monkeypatch.setenv("FLOWMO_ENGINE_CACHE", "/engines")
    assert default_cache() == Path("/engines")


def test_an_unknown_kind_is_told() -> None:
    with pytest.raises(ConfigError, match="computed by one of"):
        Runtime(kind="fastest")  # type: ignore[arg-type]
