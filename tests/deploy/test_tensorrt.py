"""Real engines, built without a GPU; running them needs one (benchmarks/gpu)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from flowmo.deploy.export import export
from flowmo.deploy.graphs import HALVES, Half
from flowmo.deploy.onnx_files import OnnxFile
from flowmo.deploy.tensorrt.build import BuildOptions, build, find_or_build, key_of
from flowmo.deploy.tensorrt.keys import (
    Manifest,
    current_architecture,
    read_engine,
    read_manifest,
)
from flowmo.deploy.tensorrt.libraries import Library, load_library
from flowmo.deploy.tensorrt.report import layer_report
from flowmo.deploy.tensorrt.steps import EngineHalf, check_bindings
from flowmo.model.errors import CompilationError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel

ADA = BuildOptions(architecture="sm89")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def engine(
    small_files: dict[Half, OnnxFile], rtx: Library, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    path, _ = build(small_files["decoder"], folder, rtx, (1, 2), options=ADA)
    return path


@pytest.fixture
def key(small_files: dict[Half, OnnxFile], rtx: Library) -> Any:
    return key_of(small_files["decoder"], rtx, (1, 2), "sm89")


def check_engine(
    file: OnnxFile, model: InferenceModel, path: Path, manifest: Manifest, profiles: int
) -> None:
    """Weights in bfloat16 are all there, and each attention is one kernel."""
    half = file.half
    assert half != "prior"
    assert path.stat().st_size == manifest.size
    assert manifest.size > 2 * sum(p.numel() for p in model.network(half).parameters())
    depth = (model.config.encoder if half == "encoder" else model.config.decoder).depth
    assert manifest.report["attention_expected"] == profiles * depth
    assert manifest.report["attention_fused"] == "all"
    check_bindings(half, manifest.bindings)


@pytest.mark.parametrize(("half", "attention"), [("encoder", "fused"), ("decoder", "explicit")])
def test_halves_are_built_with_fused_attention(
    half: Half,
    attention: Any,
    small: InferenceModel,
    small_files: dict[Half, OnnxFile],
    small_checkpoint: Path,
    rtx: Library,
    tmp_path: Path,
) -> None:
    seen: list[tuple[str, int, int]] = []
    file = small_files[half]
    if attention == "explicit":
        network = FlowMo.from_pretrained(str(small_checkpoint))
        file = export(
            InferenceModel(network, dtype=torch.bfloat16), tmp_path, half, attention=attention
        )
    path, manifest = build(
        file,
        tmp_path,
        rtx,
        (1, 2, 4),
        options=ADA,
        progress=lambda phase, done, steps: seen.append((phase, done, steps)),
    )
    check_engine(file, small, path, manifest, 3)
    begun = {phase for phase, done, _ in seen if done == 0}
    ended = {phase for phase, done, steps in seen if done == steps}
    assert begun
    assert begun <= ended


def test_the_fused_form_is_fused_in_the_decoder_too(
    engine: Path, small: InferenceModel, small_files: dict[Half, OnnxFile]
) -> None:
    check_engine(small_files["decoder"], small, engine, read_manifest(engine), 2)


@pytest.mark.slow
@pytest.mark.parametrize("half", HALVES)
def test_the_demo_models_halves_are_built(
    half: Half, tiny_checkpoint: Path, rtx: Library, tmp_path: Path
) -> None:
    """It predicts images with a head, and has more and larger blocks than the small model above."""
    model = InferenceModel(FlowMo.from_pretrained(str(tiny_checkpoint)), dtype=torch.bfloat16)
    file = export(model, tmp_path, half)
    path, manifest = build(file, tmp_path, rtx, (1, 2, 4), options=ADA)
    check_engine(file, model, path, manifest, 3)


def test_an_engine_is_found_again_and_not_built_twice(
    small_files: dict[Half, OnnxFile], rtx: Library, engine: Path, key: Any
) -> None:
    before = engine.stat().st_mtime_ns
    found = find_or_build(small_files["decoder"], engine.parent, rtx, (1, 2), options=ADA)
    assert (found[0], found[2]) == (engine, False)
    assert engine.stat().st_mtime_ns == before
    content, manifest = read_engine(engine, key)
    assert (len(content), manifest.key) == (manifest.size, key)
    assert manifest.bindings["condition"] == {
        "kind": "input",
        "dtype": "bf16",
        "shape": [16, 13],
    }


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "sm90"},
        {"version": "0.1"},
        {"fingerprint": "0" * 32},
        {"dtype": "float32"},
        {"buckets": (1, 2, 4)},
        {"library": "tensorrt"},
    ],
)
def test_an_engine_for_another_use_is_not_loaded(
    engine: Path, key: Any, change: dict[str, Any]
) -> None:
    other = replace(key, **change)
    assert other.file_name != key.file_name
    field = next(iter(change))
    with pytest.raises(CompilationError, match=rf"for another use \({field}: .*build one"):
        read_engine(engine, other)


def test_a_changed_engine_is_not_loaded(engine: Path, key: Any, tmp_path: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    copy = tmp_path / engine.name
    manifest = engine.with_name(engine.name + ".json").read_bytes()
    copy.write_bytes(bytes(content))
    with pytest.raises(CompilationError, match="has no .*json"):
        read_engine(copy, key)
    copy.with_name(copy.name + ".json").write_bytes(manifest)
    with pytest.raises(CompilationError, match="it is not loaded: delete it"):
        read_engine(copy, key)
    copy.with_name(copy.name + ".json").write_text(json.dumps({"key": {}}))
    with pytest.raises(CompilationError, match="not a manifest of this release"):
        read_manifest(copy)
    with pytest.raises(CompilationError, match="there is no engine"):
        read_engine(tmp_path / "none.engine", key)


def test_a_damaged_manifest_is_built_again(
    small_files: dict[Half, OnnxFile], rtx: Library, tmp_path: Path
) -> None:
    path, _, _ = find_or_build(small_files["encoder"], tmp_path, rtx, (2,), options=ADA)
    path.with_name(path.name + ".json").write_text("{")
    _, manifest, new = find_or_build(small_files["encoder"], tmp_path, rtx, (2,), options=ADA)
    assert new
    assert read_manifest(path) == manifest


@without_gpu
def test_a_refittable_engine_needs_a_gpu_to_be_built(
    small_files: dict[Half, OnnxFile], rtx: Library, tmp_path: Path
) -> None:
    refit = replace(ADA, refittable=True)
    with pytest.raises(CompilationError, match="refittable engines only where a GPU is"):
        build(small_files["encoder"], tmp_path, rtx, (2,), options=refit)


def test_an_architecture_it_does_not_know_is_named(
    small_files: dict[Half, OnnxFile], rtx: Library, tmp_path: Path
) -> None:
    hopper = BuildOptions(architecture="sm90")
    with pytest.raises(CompilationError, match=r"does not build for sm90 .*sm75, sm80.* H100"):
        build(small_files["encoder"], tmp_path, rtx, (1,), options=hopper)


def test_an_operator_it_does_not_know_is_named(
    small_files: dict[Half, OnnxFile], rtx: Library, tmp_path: Path
) -> None:
    proto = onnx.load(str(small_files["encoder"].path))
    gelu = next(node for node in proto.graph.node if node.op_type == "Gelu")
    gelu.op_type, gelu.domain = "Snake", "org.example"
    proto.opset_import.append(onnx.helper.make_opsetid("org.example", 1))
    path = tmp_path / "encoder.onnx"
    onnx.save(proto, str(path))
    with pytest.raises(CompilationError, match=r"cannot parse .*encoder\.onnx: .*Snake"):
        build(OnnxFile.read(path), tmp_path, rtx, (1,), options=ADA)


def test_a_shape_that_does_not_fit_is_told(
    small_files: dict[Half, OnnxFile], rtx: Library, tmp_path: Path
) -> None:
    proto = onnx.load(str(small_files["encoder"].path))
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 33
    path = tmp_path / "encoder.onnx"
    onnx.save(proto, str(path))
    with pytest.raises(CompilationError, match=r"cannot (parse|build) .*encoder\.onnx"):
        build(OnnxFile.read(path), tmp_path, rtx, (1,), options=ADA)


def test_a_missing_library_says_how_to_get_it() -> None:
    missing: Any = "tensorrt_of_tomorrow"
    with pytest.raises(CompilationError, match="must be tensorrt or tensorrt_rtx"):
        load_library(missing)


@without_gpu
def test_without_a_gpu_an_architecture_must_be_named(
    small_files: dict[Half, OnnxFile], rtx: Library, tmp_path: Path
) -> None:
    with pytest.raises(CompilationError, match="no CUDA device.*--architecture"):
        current_architecture()
    with pytest.raises(CompilationError, match="no CUDA device"):
        build(small_files["encoder"], tmp_path, rtx, (1,))


@without_gpu
def test_an_engine_that_cannot_run_here_is_told(engine: Path, key: Any, rtx: Library) -> None:
    content, manifest = read_engine(engine, key)
    with pytest.raises(CompilationError, match="cannot load the decoder's engine on this machine"):
        EngineHalf("decoder", content, manifest, rtx, torch.device("cuda"))
    with pytest.raises(CompilationError, match="the encoder's engine has"):
        EngineHalf("encoder", content, manifest, rtx, torch.device("cuda"))


def test_layers_are_told_apart_by_type_and_attention() -> None:
    lines = [
        "_gemm_mha_v2_myl0_98, LayerType: kgen, Inputs: [ ]",
        "Name: __myl_SoftMax_1, LayerType: kgen, Inputs: [ ]",
        "node_MatMul_1, LayerType: gemm, Inputs: [ ]",
        "node_MatMul_1, LayerType: gemm, Inputs: [ ]",  # told twice
        "[V] something else",
    ]
    report = layer_report(lines, profiles=1, depth=2)
    assert report == {
        "layers": {"gemm": 1, "kgen": 2},
        "attention_kernels": 1,
        "attention_expected": 2,
        "softmax_kernels": 1,
        "attention_fused": "some",
    }
    assert layer_report(lines[:1], profiles=1, depth=1)["attention_fused"] == "all"
    assert layer_report(lines[1:3], profiles=1, depth=1)["attention_fused"] == "none"
    assert layer_report([], profiles=1, depth=1)["attention_fused"] == "unknown"
