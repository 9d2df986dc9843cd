"""Exported halves compute what PyTorch does, and say whose they are."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from benchmarks.parity_files import read_parity_file
from flowmo.deploy.export import export, largest_difference
from flowmo.deploy.graphs import HALVES, Half
from flowmo.deploy.onnx_files import OnnxFile, file_name
from flowmo.deploy.onnx_runtime import OnnxSession, OnnxSteps
from flowmo.model.errors import CompilationError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import time_grid

PARITY = Path(__file__).resolve().parents[1] / "data" / "parity"


# Hi's encoder is Lo's with more bits, the continuous decoder is Lo's with fewer.
@pytest.mark.parametrize(
    ("name", "halves"),
    [("lo_mini", HALVES), ("hi_mini", ["decoder"]), ("continuous_mini", ["encoder"])],
)
def test_parity_configurations_within_1e_4(
    name: str, halves: Sequence[Half], tmp_path: Path
) -> None:
    model = InferenceModel(read_parity_file(PARITY / f"{name}.safetensors").build())
    for half in halves:
        file = export(model, tmp_path, half)
        assert largest_difference(file, model, batches=(1, 2, 5)) <= 1e-4


@pytest.mark.parametrize("half", HALVES)
def test_tiny_within_1e_4(tiny: InferenceModel, half: Half, tmp_path: Path) -> None:
    assert largest_difference(export(tiny, tmp_path, half), tiny) <= 1e-4


def test_a_head_within_1e_4(small: InferenceModel, tmp_path: Path) -> None:
    """Of a network that predicts velocities; tiny predicts images, and has a head, too."""
    torch.manual_seed(0)
    model = InferenceModel(FlowMo(replace(small.config, head=(8, 4))))
    file = export(model, tmp_path, "decoder")
    assert largest_difference(file, model, batches=(1, 3)) <= 1e-4


def test_both_forms_of_attention_are_right_and_what_they_say(
    small: InferenceModel,
    small_float32_files: dict[Half, OnnxFile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = {}
    # Weights that are large lie beside the file, which changes nothing.
    monkeypatch.setattr("flowmo.deploy.export.EXTERNAL_BYTES", 1000)
    explicit = export(small, tmp_path, "decoder", attention="explicit")
    data = tmp_path / "decoder_step.onnx.data"
    assert data.stat().st_size > explicit.path.stat().st_size
    assert OnnxFile.read(explicit.path).fingerprint == small.fingerprint
    for form, file in (("fused", small_float32_files["decoder"]), ("explicit", explicit)):
        assert file.attention == form
        assert largest_difference(file, small) <= 1e-4
        nodes = onnx.load(str(file.path)).graph.node
        counts[form] = (
            sum(node.op_type == "Attention" for node in nodes),
            sum(node.op_type == "Softmax" for node in nodes),
        )
    depth = small.config.decoder.depth
    assert counts == {"fused": (depth, 0), "explicit": (0, depth)}


def test_a_file_says_whose_it_is_and_in_which_precision(
    small_files: dict[Half, OnnxFile], small: InferenceModel
) -> None:
    shapes = {
        half: {tuple(value.shape) for value in network.parameters()}
        | {tuple(value.shape[::-1]) for value in network.parameters()}
        for half, network in (("encoder", small.encoder), ("decoder", small.decoder))
    }
    for half, written in small_files.items():
        read = OnnxFile.read(written.path)
        assert read == written
        assert (read.half, read.fingerprint, read.config) == (half, small.fingerprint, small.config)
        assert read.config.sampler == small.config.sampler
        graph = onnx.load(str(written.path)).graph
        # A batch of any size; images in float32, weights in bfloat16.
        assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
        assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        weights = [
            init
            for init in graph.initializer
            if len(init.dims) == 2 and tuple(init.dims) in shapes[half]
        ]
        assert len(weights) > 10
        assert {init.data_type for init in weights} == {onnx.TensorProto.BFLOAT16}


def test_a_decode_by_onnx_runtime_is_that_of_pytorch(
    small_checkpoint: Path, small_float32_files: dict[Half, OnnxFile]
) -> None:
    model = InferenceModel(FlowMo.from_pretrained(str(small_checkpoint)))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    code, plain = model.encode(images), model.quantize(model.encode(images))
    start = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = model.decode(plain, start=start)
    folder = small_float32_files["encoder"].path.parent
    model.compute_with(OnnxSteps(folder, model, threads=1))
    assert (model.encode(images) - code).abs().max() <= 1e-4
    assert (model.decode(plain, start=start) - expected).abs().max() <= 1e-3
    assert len(time_grid(model.config.sampler)) > 2  # several steps were compared


def test_errors_say_what_came_and_how_to_mend_it(
    small: InferenceModel,
    tiny: InferenceModel,
    small_files: dict[Half, OnnxFile],
    small_float32_files: dict[Half, OnnxFile],
    small_checkpoint: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(CompilationError, match=r"nothing\.onnx is not a file; .*flowmo export"):
        OnnxFile.read(tmp_path / "nothing.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 100)
    with pytest.raises(CompilationError, match="cannot be read as ONNX"):
        OnnxFile.read(broken)
    foreign = tmp_path / "foreign.onnx"
    onnx.save(onnx.ModelProto(ir_version=10), str(foreign))
    with pytest.raises(CompilationError, match="export the checkpoint again"):
        OnnxFile.read(foreign)
    damaged = onnx.load(str(small_files["encoder"].path))
    for entry in damaged.metadata_props:
        if entry.key == "flowmo.config":
            entry.value = json.dumps({"image_size": 7})
    onnx.save(damaged, str(foreign))
    with pytest.raises(CompilationError, match="damaged metadata"):
        OnnxFile.read(foreign)
    with pytest.raises(CompilationError, match=r"bfloat16.*--dtype float32"):
        OnnxSession(small_files["decoder"])
    half_precision = InferenceModel(
        FlowMo.from_pretrained(str(small_checkpoint)), dtype=torch.float16
    )
    with pytest.raises(CompilationError, match="float32 and bfloat16 are exported"):
        export(half_precision, tmp_path, "encoder")
    with pytest.raises(CompilationError, match="exported from the weights"):
        OnnxSteps(small_float32_files["encoder"].path.parent, tiny)
    with pytest.raises(CompilationError, match="not a file"):
        OnnxSteps(tmp_path, small)
    assert file_name("decoder") == "decoder_step.onnx"
