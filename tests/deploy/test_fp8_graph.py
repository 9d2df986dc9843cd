"""A graph in fp8 is valid ONNX, and computes what its quantizers say."""

import copy
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from flowmo.deploy.compiled import is_inner_linear
from flowmo.deploy.export import export
from flowmo.deploy.fp8_graph import activation_ranges
from flowmo.deploy.graphs import example, graph_of
from flowmo.deploy.onnx_files import OnnxFile
from flowmo.deploy.onnx_runtime import OnnxSession
from flowmo.model.errors import CompilationError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel


class Quantized(nn.Module):
    """A linear between whose input, weight and product stand the quantizers, in float32."""

    def __init__(self, linear: nn.Linear, largest: float) -> None:
        super().__init__()
        self.linear, self.largest = linear, largest

    def forward(self, x: Tensor) -> Tensor:
        weight = _through_fp8(self.linear.weight, self.linear.weight.abs().amax(1, keepdim=True))
        return nn.functional.linear(
            _through_fp8(x, torch.tensor(self.largest)), weight, self.linear.bias
        )


def _through_fp8(value: Tensor, largest: Tensor) -> Tensor:
    scale = largest / 448
    return (value / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def test_a_half_in_fp8_computes_what_its_quantizers_say(
    one_block_checkpoint: Path, tmp_path: Path
) -> None:
    model = InferenceModel(FlowMo.from_pretrained(str(one_block_checkpoint)))
    ranges = activation_ranges(model, "decoder")
    linears = {n for n, m in model.decoder.named_modules() if is_inner_linear(m, n)}
    assert ranges.keys() == linears
    file = export(model, tmp_path, "decoder", fp8_ranges=ranges)
    assert OnnxFile.read(file.path).quantization == "fp8"
    onnx.checker.check_model(str(file.path), full_check=True)
    graph = onnx.load(str(file.path)).graph
    weights = [i for i in graph.initializer if i.name.endswith("weight_fp8")]
    assert len(weights) == len(linears)
    assert {i.data_type for i in weights} == {onnx.TensorProto.FLOAT8E4M3FN}
    operators = [node.op_type for node in graph.node]
    assert operators.count("QuantizeLinear") == len(linears)
    assert operators.count("DequantizeLinear") == 2 * len(linears)

    inputs = example(model, "decoder", 2)
    with torch.inference_mode():
        exact = graph_of(model, "decoder")(*inputs)
        reference = copy.deepcopy(graph_of(model, "decoder"))
        for name in linears:
            owner, _, leaf = name.rpartition(".")
            linear = reference.network.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            setattr(reference.network.get_submodule(owner), leaf, Quantized(linear, ranges[name]))
        expected = reference(*inputs)
    got = OnnxSession(file)(*inputs)
    # A number half way between two of fp8 may go to either by the rounding of a product before.
    assert (got - expected).norm() < 0.1 * (expected - exact).norm()
    assert 1e-3 < (got - exact).norm() / exact.norm() < 0.2


def test_a_linear_that_is_not_in_the_graph_is_told(
    one_block_checkpoint: Path, tmp_path: Path
) -> None:
    model = InferenceModel(FlowMo.from_pretrained(str(one_block_checkpoint)))
    with pytest.raises(CompilationError, match=r"no product for 1 linears, blocks\.7\.img\.qkv"):
        export(model, tmp_path, "encoder", fp8_ranges={"blocks.7.img.qkv": 1.0})
