"""An exported graph whose blocks' linears compute in fp8, as quantizers for TensorRT write it.

Before each product both sides pass a pair of QuantizeLinear and DequantizeLinear in float8 E4M3; a
compiler fuses the pairs with the product, anything else computes what they mean. Weights are stored
in fp8, with a scale an output; activations have one scale a linear, found by calibration: the pairs
are in the graph, so it must be known before a picture comes. Those of input and output stay as they
are, as in :func:`flowmo.deploy.compiled.quantize`.
"""

import ast
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flowmo.deploy.compiled import is_inner_linear
from flowmo.deploy.graphs import Half
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import CompilationError
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import noise

if TYPE_CHECKING:
    import onnx_ir as ir

# The largest number of float8 E4M3.
_LARGEST = 448.0
# What PyTorch's exporter writes at each node: the names of the modules that it is of.
_SCOPES = "pkg.torch.onnx.name_scopes"


def activation_ranges(
    model: InferenceModel, half: Half, *, rows: int = 2, steps: int = 4, seed: int = 0
) -> dict[str, float]:
    """Find the largest magnitude that comes to each inner linear of a half.

    Codes drawn at random are decoded by the model's own steps; the encoder sees their pictures.

    Args:
        model: The model, with both halves.
        half: The half whose ranges are wanted.
        rows: The number of pictures.
        steps: The steps of their decodes; each is an evaluation of the decoder.
        seed: The seed of codes and noise.

    Returns:
        By the name of the linear in the half, such as ``blocks.0.img.qkv``.
    """
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, config.code_length, config.token_bits)
    codes = torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
    start = noise(range(seed, seed + rows), (3, config.image_size, config.image_size))
    sampler = SamplerConfig(steps=steps, guidance=1.0)
    with _watched(model.network("decoder")) as in_decoder:
        pictures = model.decode(codes, start=start, sampler=sampler)
    if half == "decoder":
        return in_decoder
    with _watched(model.network("encoder")) as in_encoder:
        model.encode(pictures)
    return in_encoder


@contextmanager
def _watched(network: nn.Module) -> Iterator[dict[str, float]]:
    """The ranges of the inputs that a network's inner linears get while the block runs."""
    ranges: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            ranges[name] = max(ranges.get(name, 0.0), inputs[0].abs().max().item())

        return module.register_forward_pre_hook(see)

    handles = [
        watch(name, module)
        for name, module in network.named_modules()
        if is_inner_linear(module, name)
    ]
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


def quantize_graph(model: "ir.Model", ranges: Mapping[str, float]) -> int:
    """Put the pairs into a graph, in place.

    Args:
        model: A graph as PyTorch's exporter writes it, its weights folded to the products' form.
        ranges: Of :func:`activation_ranges`.

    Returns:
        The number of products that compute in fp8.

    Raises:
        CompilationError: The graph has not one product for each of the ranges.
    """
    graph = model.graph
    found: dict[str, ir.Node] = {}
    for node in graph:
        if node.op_type == "MatMul" and (name := _linear_of(node)) in ranges:
            found[name] = node
    if missing := sorted(ranges.keys() - found.keys()):
        raise CompilationError(
            f"the exported graph has no product for {len(missing)} linears, {missing[0]} among "
            f"them; this release of PyTorch's exporter writes them in another way: leave fp8 out"
        )
    for name, node in found.items():
        _quantize_activation(graph, node, name, ranges[name])
        _quantize_weight(graph, node, name)
    return len(found)


def _linear_of(node: "ir.Node") -> str:
    """The name in its half of the linear that a product is of."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        return str(scopes[-2]).removeprefix("network.")
    except (ValueError, SyntaxError, IndexError):
        return ""


def _quantize_activation(graph: "ir.Graph", node: "ir.Node", name: str, largest: float) -> None:
    value = node.inputs[0]
    assert value is not None
    dtype = _dtype_of(node)
    if not 0.0 < largest < math.inf:
        raise CompilationError(
            f"calibration saw {largest} as the range of {name}: no scale fits it"
        )
    scale = _constant(graph, f"{name}.input_scale", torch.tensor(largest / _LARGEST, dtype=dtype))
    zero = _constant(graph, f"{name}.input_zero", torch.zeros((), dtype=torch.float8_e4m3fn))
    quantized = _insert(graph, node, "QuantizeLinear", [value, scale, zero], f"{name}.input_fp8")
    back = _insert(graph, node, "DequantizeLinear", [quantized, scale, zero], f"{name}.input")
    node.replace_input_with(0, back)


def _quantize_weight(graph: "ir.Graph", node: "ir.Node", name: str) -> None:
    old = node.inputs[1]
    assert old is not None and old.const_value is not None
    weight = torch.from_numpy(old.const_value.numpy().astype("float32"))  # [inputs, outputs]
    # The scale as it is stored, so that its own rounding is no error of the weights.
    scale = (weight.abs().amax(0).clamp(min=1e-12) / _LARGEST).to(_dtype_of(node))
    stored = (weight / scale.float()).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    parts = [
        _constant(graph, f"{name}.weight_fp8", stored),
        _constant(graph, f"{name}.weight_scale", scale),
    ]
    node.replace_input_with(
        1, _insert(graph, node, "DequantizeLinear", parts, f"{name}.weight", axis=1)
    )
    if not old.uses():
        assert old.name is not None
        graph.initializers.pop(old.name, None)


def _dtype_of(node: "ir.Node") -> torch.dtype:
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    names = {"FLOAT": torch.float32, "BFLOAT16": torch.bfloat16}
    return names[weight.const_value.dtype.name]


def _constant(graph: "ir.Graph", name: str, tensor: Tensor) -> "ir.Value":
    import onnx_ir as ir
    from onnx_ir.tensor_adapters import TorchTensor

    held = TorchTensor(tensor.contiguous(), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(held.shape), type=ir.TensorType(held.dtype), const_value=held
    )
    graph.register_initializer(value)
    return value


def _insert(
    graph: "ir.Graph",
    node: "ir.Node",
    operator: str,
    inputs: "list[ir.Value]",
    output: str,
    **attributes: int,
) -> "ir.Value":
    import onnx_ir as ir

    made = ir.node(operator, inputs=inputs, attributes=attributes, name=f"{output}.{operator}")
    made.outputs[0].name = output
    graph.insert_before(node, made)
    return made.outputs[0]
