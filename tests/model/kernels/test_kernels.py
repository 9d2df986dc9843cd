"""Hand-written kernels compute what their PyTorch forms do; Triton's interpreter runs them here."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowmo.deploy.block_kernels import usable, with_kernels
from flowmo.model import inference_network
from flowmo.model.errors import CompilationError, ConfigError
from flowmo.model.inference import InferenceModel
from flowmo.model.inference_network import InferenceBlock
from flowmo.model.kernels import beside, choice
from flowmo.model.kernels.choice import NO_KERNELS, Kernels
from flowmo.model.kernels.gated_norm import gated_norm
from flowmo.model.kernels.gelu import linear_gelu
from flowmo.model.kernels.qkv import joint_qkv
from tests.model.kernels.networks import made

pytestmark = [
    pytest.mark.skipif(
        not choice.triton_is_installed(), reason="Triton is for Linux; the extra dev has it there"
    ),
    pytest.mark.skipif(torch.cuda.is_available(), reason="they are compiled, not interpreted"),
]
WIDTH, HEADS, DIM = 24, 3, 8
# Whole numbers of nothing: neither lengths nor widths are powers of two.
TXT, IMG, ROWS = 1, 3, 2


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize(("gate", "first"), [(None, 0), (2, 3), (5, None)])
def test_gated_norm(gate: int | None, first: int | None, modulated: bool) -> None:
    x = [torch.randn(ROWS, length, WIDTH) for length in (TXT, IMG)]
    update = [] if gate is None else [torch.randn_like(value) for value in x]
    # A slice of a whole network's rows, as a block gets it.
    whole = torch.randn(ROWS, 2 * 2 * 6 * WIDTH)
    modulation = whole.unflatten(1, (2, 2, 6, 1, WIDTH)).movedim(0, 3)[1] if modulated else None

    def both(fused: bool) -> list[torch.Tensor]:
        added, normed = gated_norm(
            x, update, modulation, (1, 0), gate=gate, first=first, fused=fused
        )
        assert (len(added), len(normed)) == (2, 0 if first is None else 2)
        return [*added, *cast("list[torch.Tensor]", normed)]

    torch.testing.assert_close(both(True), both(False), rtol=0, atol=2e-6)


def test_gated_norm_of_one_stream_with_one_modulation_for_all_rows() -> None:
    x, update = torch.randn(2, ROWS, IMG, WIDTH).bfloat16().unbind()
    modulation = torch.randn(2, 6, 1, 1, WIDTH).bfloat16()
    arguments = ([x], [update], modulation, (0,))
    (added,), (normed,) = gated_norm(*arguments, gate=2, first=3, fused=True)
    wide = ([x.float()], [update.float()], modulation.float(), (0,))
    (expected_sum,), (expected,) = gated_norm(*wide, gate=2, first=3, fused=False)
    assert isinstance(normed, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    # One rounding, of the result.
    torch.testing.assert_close(added, expected_sum.bfloat16(), rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(normed, expected.bfloat16(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("alive", [(True, True), (False, True), (True, False)])
def test_joint_qkv(alive: tuple[bool, bool]) -> None:
    lengths = (TXT, IMG)
    projected = [
        torch.randn(ROWS, length, (3 if has else 2) * WIDTH)
        for length, has in zip(lengths, alive, strict=True)
    ]
    q_scales = [torch.rand(DIM) + 0.5 if has else None for has in alive]
    k_scales = [torch.rand(DIM) + 0.5 for _ in alive]
    table = torch.randn(2, TXT + IMG, DIM // 2)
    fused, plain = (
        joint_qkv(projected, q_scales, k_scales, table, HEADS, fused=fused)
        for fused in (True, False)
    )
    torch.testing.assert_close(fused, plain, rtol=0, atol=2e-6)
    # In memory as the products after attention read it, without a copy.
    assert all(value.transpose(1, 2).is_contiguous() for value in fused)


def test_the_epilogue_adds_the_bias_before_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x = nn.Linear(6, 10), torch.randn(2, 3, 6)
    with torch.no_grad():
        plain = F.gelu(linear(x), approximate="tanh")
        assert torch.equal(linear_gelu(x, linear, epilogue=True), plain)
        # On a CPU that operator is the erf form.
        monkeypatch.setattr(choice, "on_gpu", lambda _: True)
        torch.testing.assert_close(linear_gelu(x, linear, epilogue=True), F.gelu(linear(x)))


@pytest.fixture(scope="module")
def model() -> InferenceModel:
    return made(WIDTH, HEADS)


def test_whole_halves_agree_and_share_their_weights(
    model: InferenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for half in model.halves:
        network = model.network(half)
        twin = with_kernels(network, Kernels.all())
        assert [p.data_ptr() for p in twin.parameters()] == [
            p.data_ptr() for p in network.parameters()
        ]
        used = {m.kernels for m in twin.modules() if isinstance(m, InferenceBlock)}
        kept = {m.kernels for m in network.modules() if isinstance(m, InferenceBlock)}
        assert (used, kept) == ({Kernels.all()}, {NO_KERNELS})
    images, condition = torch.rand(1, 3, 8, 8) * 2 - 1, torch.randn(1, 1, 5)
    expected = model.encode(images), model.velocity(images, 0.4, condition)
    monkeypatch.setattr(model, "_encoder", with_kernels(model.encoder, Kernels.all()))
    monkeypatch.setattr(model, "_decoder", with_kernels(model.decoder, Kernels.all()))
    came = model.encode(images), model.velocity(images, 0.4, condition)
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-5)


def test_a_stream_computed_beside_the_other_gives_the_same(
    model: InferenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, condition = torch.rand(2, 3, 8, 8) * 2 - 1, torch.randn(2, 1, 5)
    expected = model.encode(images), model.velocity(images, 0.4, condition)
    devices: list[torch.device] = []

    def in_turn(
        small: Callable[[], torch.Tensor], large: Callable[[], torch.Tensor], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        devices.append(device)
        second = large()
        return small(), second

    monkeypatch.setattr(inference_network, "beside", in_turn)
    monkeypatch.setattr(choice, "on_gpu", lambda _: True)
    kernels = Kernels(txt_beside=True)
    monkeypatch.setattr(model, "_encoder", with_kernels(model.encoder, kernels))
    monkeypatch.setattr(model, "_decoder", with_kernels(model.decoder, kernels))
    came = model.encode(images), model.velocity(images, 0.4, condition)
    torch.testing.assert_close(came, expected, rtol=0, atol=1e-6)
    # Products of both streams in each of four blocks, and the rest where both go on.
    assert len(devices) == 4 + 2


def test_kernels_are_refused_where_there_is_no_gpu() -> None:
    cpu, gpu, bf16 = torch.device("cpu"), torch.device("cuda"), torch.bfloat16
    assert usable(NO_KERNELS, cpu, bf16, fp8=False) == NO_KERNELS
    with pytest.raises(CompilationError, match="for a CUDA device, the model is on cpu"):
        usable(Kernels(fused_qkv=True), cpu, bf16, fp8=False)
    assert usable(Kernels.all(), gpu, bf16, fp8=False) == Kernels.all()
    assert not usable(Kernels.all(), gpu, bf16, fp8=True).gelu_epilogue


def test_kernels_by_name() -> None:
    assert Kernels.named("fused-qkv, gelu-epilogue") == Kernels(fused_qkv=True, gelu_epilogue=True)
    assert Kernels.named("all") == Kernels.all()
    assert Kernels.named("none") == Kernels.named("") == NO_KERNELS
    both = Kernels.named("all,fp8-rowwise")
    assert not Kernels.all().fp8_rowwise  # it changes numbers
    assert both.fp8_rowwise
    assert replace(both, fp8_rowwise=False) == Kernels.all()
    with pytest.raises(ConfigError, match="no kernel 'fused'; there are gelu-epilogue, fused-qkv"):
        Kernels.named("fused")


def test_each_stream_waits_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = "main" if name == "main" else "side"

        def wait_stream(self, other: "Stream") -> None:
            said.append(f"{self.name} waits for {other.name}")

    def use(stream: Stream) -> AbstractContextManager[None]:
        said.append(f"to {stream.name}")
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("main"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", use)

    def work(name: str) -> str:
        said.append(name)
        return name

    device = torch.device("cuda", 7)
    both = beside.beside(lambda: work("small"), lambda: work("large"), device)
    beside._sides.of.pop(device)
    assert both == ("small", "large")
    assert said == [
        "side waits for main",
        "to side",
        "small",
        "large",
        "main waits for side",
    ]
