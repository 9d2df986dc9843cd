"""What only a CUDA device can show; benchmarks/gpu/cuda_check runs these there."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from flowmo.deploy import golden
from flowmo.deploy.compiled import CompiledSteps
from flowmo.deploy.cuda_graphs import CudaGraphs
from flowmo.deploy.graphs import example
from flowmo.deploy.runners import Runtime, install
from flowmo.model.attention import HALF_PRECISION, ranked_backends, time_backends
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.kernels.choice import Kernels
from flowmo.model.kernels.fp8_linear import Fp8Linear
from flowmo.model.kernels.gated_norm import gated_norm
from flowmo.model.kernels.quantize import LEAST_SCALE, Quantized, quantize_rows, quantized

pytestmark = pytest.mark.gpu


def load(checkpoint: Path) -> InferenceModel:
    network = FlowMo.from_pretrained(str(checkpoint))
    return InferenceModel(network, dtype=torch.bfloat16, device="cuda")


def test_a_graph_is_replayed_with_new_inputs() -> None:
    weight = torch.randn(8, 8, device="cuda")

    def compute(a: Tensor, b: Tensor) -> Tensor:
        return a @ weight + b

    graphs = CudaGraphs(compute)
    kept = []
    for rows in (1, 4, 1, 4):
        a, b = torch.randn(2, rows, 8, device="cuda")
        kept.append((graphs(a, b), compute(a, b)))
    # What was given stays what it is, through later calls of the same batch size.
    for output, expected in kept:
        assert torch.allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_compiled_steps_agree(tiny_checkpoint: Path, compiled: bool, cuda_graphs: bool) -> None:
    model = load(tiny_checkpoint)
    steps = CompiledSteps(model, (1, 2, 4), compiled=compiled, cuda_graphs=cuda_graphs)
    for rows in (1, 2, 3, 5):
        for error in golden.relative_errors(steps, model, rows=rows).values():
            assert error.compiled <= golden.FACTOR * error.plain + golden.SLACK


@pytest.mark.parametrize("compiled", [True, False])
def test_a_whole_decode_in_one_graph_is_the_decode_by_steps(
    tiny_checkpoint: Path, compiled: bool
) -> None:
    model = load(tiny_checkpoint)
    sampler, buckets = model.config.sampler, (1, 2)
    by_steps = CompiledSteps(model, buckets, compiled=compiled)
    whole = CompiledSteps(model, buckets, compiled=compiled, whole_decodes=[sampler])
    for seed in (0, 1, 0):
        start, condition, _ = example(model, "decoder", 1, seed=seed)
        images = []
        for steps in (by_steps, whole):
            model.compute_with(steps)
            images.append(model.decode(condition[..., :-1], start=start))
        torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-3)


def no_fp8() -> str | None:
    """Why fp8 products cannot be here."""
    return "no fp8 products before Ada" if torch.cuda.get_device_capability() < (8, 9) else None


def streams(width: int) -> list[Tensor]:
    """Two in bf16, with a zero row, a huge and a tiny one."""
    made = [torch.randn(2, tokens, width, device="cuda") for tokens in (5, 77)]
    for stream in made:
        stream[0, 0], stream[0, 1], stream[0, 2] = 0, stream[0, 1] * 1e30, stream[0, 2] * 1e-30
    return [stream.bfloat16() for stream in made]


def assert_same(came: Sequence[Quantized], expected: Sequence[Quantized]) -> None:
    """But for the last bits of sums and quotients, which move few numbers to their neighbours."""
    for value, wanted in zip(came, expected, strict=True):
        torch.testing.assert_close(value.scales, wanted.scales, rtol=1e-4, atol=0)
        assert value.scales.min() >= LEAST_SCALE
        differences = (value.values.float() - wanted.values.float()).abs()
        step = 2**-3 * wanted.values.float().abs().clamp(min=2**-6)
        assert (differences <= step).all()  # and finite
        assert (differences > 0).float().mean() < 0.02


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("width", [768, 1152, 4608])
def test_rows_are_quantized_as_pytorch_does(width: int, gelu: bool) -> None:
    if (why := no_fp8()) is not None:
        pytest.skip(why)
    x = streams(width)
    assert_same(*(quantize_rows(x, gelu=gelu, fused=fused) for fused in (True, False)))


def test_a_norm_writes_fp8_as_pytorch_does() -> None:
    if (why := no_fp8()) is not None:
        pytest.skip(why)
    x, update = ([stream.clamp(-1e4, 1e4) for stream in streams(1152)] for _ in range(2))
    modulation = torch.randn(2, 6, 2, 1, 1152, device="cuda").bfloat16()
    wide = ([v.float() for v in x], [v.float() for v in update], modulation.float())

    def normed(x: list[Tensor], update: list[Tensor], rows: Tensor, fused: bool) -> list[Quantized]:
        arguments = (x, update, rows, (1, 0))
        _, found = gated_norm(*arguments, gate=2, first=3, fused=fused, quantize=True)
        return [value for value in found if isinstance(value, Quantized)]

    assert_same(normed(x, update, modulation, True), normed(*wide, False))


@pytest.mark.parametrize("rows", [1, 7, 256])
def test_a_product_of_fp8_is_that_of_its_numbers(rows: int) -> None:
    if (why := no_fp8()) is not None:
        pytest.skip(why)
    linear = nn.Linear(1152, 3456, device="cuda", dtype=torch.bfloat16).requires_grad_(False)
    own, x = Fp8Linear(linear), quantized(torch.randn(1, rows, 1152, device="cuda"))
    weight = quantized(linear.weight).dequantized().double()
    exact = x.dequantized().double() @ weight.t() + linear.bias
    # bf16's rounding, and the fast sums' own.
    assert (own(x) - exact).norm() <= 5e-3 * exact.norm()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("names", ["gelu-epilogue", "fused-qkv", "fused-norm", "txt-beside", "all"])
def test_hand_written_kernels_agree(tiny_checkpoint: Path, names: str, compiled: bool) -> None:
    model = load(tiny_checkpoint)
    steps = CompiledSteps(model, (1, 4), compiled=compiled, kernels=Kernels.named(names))
    errors = golden.check(steps, model, (1, 4))
    assert set(errors) == {"encoder", "decoder"}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("names", ["fp8-rowwise", "all,fp8-rowwise"])
def test_fp8_agrees(tiny_checkpoint: Path, names: str, compiled: bool) -> None:
    if (why := no_fp8()) is not None:
        pytest.skip(why)
    model = load(tiny_checkpoint)
    steps = CompiledSteps(model, (1, 4), compiled=compiled, kernels=Kernels.named(names))
    assert set(golden.check(steps, model, (1, 4), factor=golden.FP8_FACTOR)) == {*model.halves}
    assert set(steps.memory_by_owner()) == {"fp8 encoder", "fp8 decoder"}


def test_backends_of_attention_are_timed() -> None:
    device, dtype = torch.device("cuda"), torch.bfloat16
    seconds = time_backends(rows=2, heads=12, tokens=512, head_dim=96, dtype=dtype, device=device)
    assert seconds
    assert min(seconds.values()) > 0
    ranked = ranked_backends(heads=12, tokens=512, head_dim=96, dtype=dtype, device=device)
    assert {*ranked[:-1]} <= {*seconds}
    assert ranked[-1] is SDPBackend.MATH
    assert dtype in HALF_PRECISION


def missing(kind: str) -> str | None:
    """Why a runner cannot be here: its library or its hardware, never its own failure."""
    if kind.endswith("fp8") and (why := no_fp8()) is not None:
        return why
    if kind == "compiled-fp8":
        return None if find_spec("torchao") else "torchao is not installed"
    if kind.startswith("kernels"):
        return None if find_spec("triton") else "Triton is not installed"
    if kind == "tensorrt":
        names = ("tensorrt", "tensorrt_rtx")
        return None if any(map(find_spec, names)) else "TensorRT is not installed"
    return None


@pytest.mark.parametrize("kind", ["compiled", "compiled-fp8", "kernels", "kernels-fp8", "tensorrt"])
def test_a_runner_is_installed(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    if (why := missing(kind)) is not None:
        pytest.skip(why)
    model = load(tiny_checkpoint)
    runtime = Runtime(kind=kind, cache=tmp_path, build=True)  # type: ignore[arg-type]
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()
    errors = install(model, str(tiny_checkpoint), runtime, (1, 2, 4))
    assert set(errors) == {"encoder", "decoder"}
    assert tf32 == (torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision())
    images = torch.rand(2, 3, model.config.image_size, model.config.image_size) * 2 - 1
    tokens = model.tokenize(images)
    assert model.detokenize(tokens, seeds=[0, 1]).isfinite().all()
