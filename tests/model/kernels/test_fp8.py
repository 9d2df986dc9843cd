"""Linears in fp8, row-wise: what the kernels write, what the products give, what is left alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.deploy import golden
from flowmo.deploy.block_kernels import usable, with_kernels
from flowmo.deploy.compiled import CompiledSteps
from flowmo.model.errors import CompilationError
from flowmo.model.inference import InferenceModel
from flowmo.model.inference_network import InferenceBlock
from flowmo.model.kernels import choice
from flowmo.model.kernels.choice import Kernels
from flowmo.model.kernels.fp8_linear import Fp8Linear, fits
from flowmo.model.kernels.gated_norm import gated_norm
from flowmo.model.kernels.quantize import (
    DTYPE,
    LARGEST,
    LEAST_SCALE,
    Quantized,
    quantize_rows,
    quantized,
)
from tests.model.kernels.networks import made

interpreted = [
    pytest.mark.skipif(
        not choice.triton_is_installed(), reason="Triton is for Linux; the extra dev has it there"
    ),
    pytest.mark.skipif(torch.cuda.is_available(), reason="they are compiled, not interpreted"),
]
FP8 = Kernels(fp8_rowwise=True)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def with_edges(rows: int, tokens: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Rows as they come, a zero, a huge, a tiny and a mixed one, and one with an outlier."""
    x = torch.randn(rows, tokens, width)
    x[0, 0] = 0
    x[0, 1] *= 1e37
    x[0, 2] *= 1e-38
    x[-1, -1, ::2] *= 1e-6
    x[-1, -2, 3] = -1e4
    return x.to(dtype)


def assert_equal(came: Quantized, expected: Quantized) -> None:
    """The same but for the order of sums, by which a number between two may go to either."""
    assert (came.values.dtype, came.scales.dtype) == (DTYPE, torch.float32)
    assert came.values.shape == expected.values.shape
    assert came.scales.shape == (*came.values.shape[:-1], 1)
    assert came.scales.min() >= LEAST_SCALE
    assert came.values.float().isfinite().all()
    torch.testing.assert_close(came.scales, expected.scales, rtol=1e-5, atol=0)
    step = 2**-3 * expected.values.float().abs().clamp(min=2**-6)
    assert ((came.values.float() - expected.values.float()).abs() <= step).all()
    assert (came.values.float() == expected.values.float()).float().mean() > 0.99


def test_a_row_reaches_the_largest_number_and_keeps_its_digits() -> None:
    x = with_edges(2, 5, 40)
    came = quantized(x)
    assert came.values.float().isfinite().all()
    assert came.scales.isfinite().all()
    assert came.values[0, 0].float().count_nonzero() == 0
    assert came.scales[0, 0] == LEAST_SCALE
    largest = came.values.float().abs().amax(-1)
    assert largest[0, 1].item() == LARGEST
    assert largest[1].min().item() == LARGEST
    error = (came.dequantized() - x.float()).abs()
    # Half a step of three binary digits, or of the least numbers.
    assert (error <= x.float().abs() * 2**-4 + came.scales * 2**-10).all()


def test_numbers_next_to_the_largest_do_not_become_none() -> None:
    # A scale's inverse is rounded: the largest of a row may come out just above 448.
    x = torch.rand(4096, 1, 2) + torch.arange(4096)[:, None, None]
    assert quantized(x).values.float().isfinite().all()
    assert quantized(x).values.float().abs().max() == LARGEST


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("width", [16, 40, 1152, 4608])
class TestQuantizeRows:
    pytestmark = interpreted

    def test_of_two_streams(self, width: int, gelu: bool) -> None:
        streams = [with_edges(1, 5, width), with_edges(3, 7, width)]
        fused, plain = (quantize_rows(streams, gelu=gelu, fused=fused) for fused in (True, False))
        for came, expected in zip(fused, plain, strict=True):
            assert_equal(came, expected)

    def test_of_one_stream_of_any_strides(self, width: int, gelu: bool) -> None:
        whole = torch.randn(2, 9, width).bfloat16()
        (came,) = quantize_rows([whole[:, 2:5]], gelu=gelu, fused=True)
        (expected,) = quantize_rows([whole[:, 2:5]], gelu=gelu, fused=False)
        assert_equal(came, expected)


def test_gelu_is_computed_in_float32() -> None:
    x = torch.randn(1, 3, 64).bfloat16()
    (came,) = quantize_rows([x], gelu=True, fused=False)
    expected = quantized(F.gelu(x.double(), approximate="tanh").float())
    assert_equal(came, expected)


class TestGatedNorm:
    pytestmark = interpreted

    @pytest.mark.parametrize("modulated", [True, False])
    @pytest.mark.parametrize(("gate", "first"), [(None, 0), (2, 3)])
    def test_writes_fp8(self, gate: int | None, first: int, modulated: bool) -> None:
        rows, width = 3, 40
        x = [with_edges(rows, length, width, torch.float32) / 1e20 for length in (5, 7)]
        x = [value.clamp(-1e6, 1e6) for value in x]  # what has a variance in float32
        update = [] if gate is None else [torch.randn_like(value) for value in x]
        whole = torch.randn(rows, 2 * 2 * 6 * width)
        modulation = whole.unflatten(1, (2, 2, 6, 1, width)).movedim(0, 3)[1] if modulated else None

        def compute(fused: bool) -> tuple[list[Tensor], list[Quantized]]:
            added, normed = gated_norm(
                *(x, update, modulation, (1, 0)), gate=gate, first=first, fused=fused, quantize=True
            )
            return added, [value for value in normed if isinstance(value, Quantized)]

        (added, normed), (expected_sums, expected) = compute(True), compute(False)
        torch.testing.assert_close(added, expected_sums)
        assert len(normed) == 2
        for value, wanted in zip(normed, expected, strict=True):
            assert_equal(value, wanted)

    def test_of_a_last_sum_there_is_nothing_to_quantize(self) -> None:
        x, update = torch.randn(2, 1, 3, 24)
        arguments = ([x], [update], None, (0,))
        added, normed = gated_norm(*arguments, gate=5, first=None, fused=True, quantize=True)
        assert (len(added), normed) == (1, [])


def test_a_linear_multiplies_what_was_rounded() -> None:
    linear, x = nn.Linear(48, 32).bfloat16(), with_edges(2, 5, 48)[1:]
    own = Fp8Linear(linear)
    came = own(quantized(x))
    weight = quantized(linear.weight)
    exact = quantized(x).dequantized().double() @ weight.dequantized().double().t()
    torch.testing.assert_close(came, (exact + linear.bias).bfloat16(), rtol=2**-7, atol=1e-3)
    assert own.weight.dtype == DTYPE
    assert own.weight.nbytes == linear.weight.nbytes // 2
    assert own.bias.data_ptr() == linear.bias.data_ptr()


def test_a_gpu_is_asked_for_the_same_product(monkeypatch: pytest.MonkeyPatch) -> None:
    # A CPU's operator of that name takes the same arguments, and scales of rows.
    monkeypatch.setattr(choice, "on_gpu", lambda _: False)
    linear, x = Fp8Linear(nn.Linear(48, 32).bfloat16()), quantized(torch.randn(2, 5, 48))
    expected = linear(x)
    monkeypatch.setattr(choice, "on_gpu", lambda _: True)
    came = linear(x)
    assert (came.dtype, came.shape) == (torch.bfloat16, (2, 5, 32))
    torch.testing.assert_close(came, expected, rtol=2**-6, atol=1e-2)


def test_what_a_gpu_cannot_multiply_is_left_as_it_is() -> None:
    assert fits(nn.Linear(48, 32))
    assert not fits(nn.Linear(24, 32))
    assert not fits(nn.Linear(32, 24))
    model = made(width=24, heads=3)
    network = with_kernels(model.decoder, FP8)
    blocks = [block for block in network.modules() if isinstance(block, InferenceBlock)]
    assert {block.kernels for block in blocks} == {Kernels()}
    assert not any(isinstance(module, Fp8Linear) for module in network.modules())


@pytest.fixture(scope="module")
def model() -> InferenceModel:
    return made(width=32, heads=4)


def test_the_linears_of_blocks_are_copies_of_half_the_bytes(model: InferenceModel) -> None:
    before = {name: value.clone() for name, value in model.decoder.state_dict().items()}
    network = with_kernels(model.decoder, FP8)
    linears = [m for m in network.blocks.modules() if isinstance(m, Fp8Linear)]
    # Both streams of a block, and one that gives keys and values alone in the last.
    assert len(linears) == 4 * 2 + 4 + 1
    assert not any(isinstance(module, nn.Linear) for module in network.blocks.modules())
    assert isinstance(network.img_in, nn.Linear)
    assert isinstance(network.out, nn.Linear)
    assert all(linear.weight.dtype == DTYPE for linear in linears)
    after = model.decoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "kernels", [FP8, pytest.param(Kernels.named("all,fp8-rowwise"), marks=interpreted)]
)
def test_whole_halves_are_as_near_as_fp8_is(model: InferenceModel, kernels: Kernels) -> None:
    images, condition = torch.rand(3, 3, 8, 8) * 2 - 1, torch.randn(3, 1, 5)
    expected = model.encode(images), model.velocity(images, 0.4, condition)
    encoder, decoder = model._encoder, model._decoder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_encoder", with_kernels(model.encoder, kernels))
        patch.setattr(model, "_decoder", with_kernels(model.decoder, kernels))
        came = model.encode(images), model.velocity(images, 0.4, condition)
    assert (model._encoder, model._decoder) == (encoder, decoder)
    for value, exact in zip(came, expected, strict=True):
        error = (value - exact).norm() / exact.norm()
        assert 1e-3 < error < 0.12  # in fp8, and right


@pytest.mark.skipif(not choice.triton_is_installed(), reason="Triton is for Linux")
def test_kernels_and_pytorch_forms_are_one_scheme(model: InferenceModel) -> None:
    steps = [
        with_kernels(model.decoder, kernels) for kernels in (FP8, Kernels.named("all,fp8-rowwise"))
    ]
    x, condition = torch.rand(3, 3, 8, 8) * 2 - 1, torch.randn(3, 1, 5)
    rows = model.modulation([0.1, 0.5, 1.0])
    table = model.rotary(encoder=False, grid=(2, 2))
    plain, fused = (step.velocity(x, condition, rows, table) for step in steps)
    # A number between two that goes to the other one moves what comes after it.
    assert (plain - fused).norm() / plain.norm() < 0.03


def test_steps_compute_in_fp8_on_a_cpu_and_tell_their_memory(model: InferenceModel) -> None:
    steps = CompiledSteps(model, (1, 2), compiled=False, kernels=FP8)
    errors = golden.relative_errors(steps, model)
    assert all(1e-3 < error.compiled < 0.12 for error in errors.values())
    held = steps.memory_by_owner()
    assert set(held) == {"fp8 encoder", "fp8 decoder"}
    full = model.memory_by_owner()
    for half in ("encoder", "decoder"):
        assert held[f"fp8 {half}"] < 0.5 * full[half]  # of a model in float32


def test_fp8_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu, bf16 = torch.device("cpu"), torch.device("cuda"), torch.bfloat16
    assert usable(FP8, cpu, torch.float32, fp8=False) == FP8
    every = Kernels.named("all,fp8-rowwise")
    with pytest.raises(CompilationError, match="for a CUDA device"):
        usable(every, cpu, bf16, fp8=False)
    with pytest.raises(CompilationError, match="exclude each other"):
        usable(FP8, gpu, bf16, fp8=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(CompilationError, match="capability 8.9"):
        usable(every, gpu, bf16, fp8=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with pytest.raises(CompilationError, match=r"in bfloat16, this one is in torch\.float32"):
        usable(every, gpu, torch.float32, fp8=False)
    assert usable(every, gpu, bf16, fp8=False) == replace(every, gelu_epilogue=False)
