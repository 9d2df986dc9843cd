"""The serving form gives the training form's numbers, whatever it leaves out."""

import numpy as np
import pytest
import torch

from flowmo.model.config import FlowMoConfig, SamplerConfig, TransformerConfig, preset
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import MAX_MODULATION_ROWS, InferenceModel
from flowmo.model.network import with_mask
from flowmo.model.sampler import noise, time_grid
from flowmo.model.tokens import Tokens

BASE = FlowMoConfig(
    image_size=32,
    patch_size=8,
    encoder=TransformerConfig(width=32, depth=2, heads=2),
    decoder=TransformerConfig(width=48, depth=3, heads=2),
    code_length=4,
    token_bits=6,
    group_bits=3,
)


def build(config: FlowMoConfig) -> FlowMo:
    torch.manual_seed(1)
    network = FlowMo(config).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(".scale"):  # so that a forgotten or swapped norm scale shows
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    return network


@pytest.fixture(scope="module")
def network() -> FlowMo:
    return build(BASE)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_equal_to_the_training_form(network: FlowMo, images: torch.Tensor) -> None:
    model = InferenceModel(network)
    code = network.encode(images)
    condition = with_mask(network.quantize(code))
    times = [0.9, 0.2]
    expected = network.velocity(images, torch.tensor(times), condition)
    assert torch.allclose(model.encode(images), code, atol=1e-5)
    assert torch.allclose(model.velocity(images, times, condition), expected, atol=1e-5)
    start = noise([3, 4], (3, 32, 32))
    sample = network.decode(network.quantize(code), start=start)
    assert torch.allclose(model.decode(model.quantize(code), start=start), sample, atol=1e-5)


@torch.no_grad()
def test_equal_for_a_grid_of_tokens_at_the_tiny_shape() -> None:
    network = build(preset("tiny"))
    model = InferenceModel(network)
    x = torch.rand(1, 3, 128, 128) * 2 - 1
    condition = with_mask(network.quantize(network.encode(x)))
    assert torch.allclose(model.encode(x), network.encode(x), atol=1e-5)
    expected = network.velocity(x, 0.4, condition)
    assert torch.allclose(model.velocity(x, 0.4, condition), expected, atol=1e-5)


def test_tabulated_model_decodes_its_grid_and_says_no_to_others(network: FlowMo) -> None:
    sampler = SamplerConfig(steps=4)
    free = InferenceModel(network)
    fixed = InferenceModel(network, times=time_grid(sampler))
    quantized, start = torch.ones(1, 4, 6), noise([0], (3, 32, 32))
    expected = free.decode(quantized, start=start, sampler=sampler)
    assert torch.equal(fixed.decode(quantized, start=start, sampler=sampler), expected)
    with pytest.raises(ConfigError, match="built for the times"):
        fixed.decode(quantized, start=start, sampler=SamplerConfig(steps=5))


def test_dead_weights_are_not_kept(network: FlowMo) -> None:
    model = InferenceModel(network, times=(1.0, 0.0))
    kept = sum(p.numel() for half in (model.encoder, model.decoder) for p in half.parameters())
    names = [n for n, _ in network.named_parameters()]
    dead = ("_mod.", "time_in", "adaLN", "encoder.final_layer_img", "decoder.final_layer_txt")
    used = sum(
        p.numel()
        for n, p in network.named_parameters()
        if not any(part in n for part in dead) and not n.endswith(".scale")
    )
    assert len(names) > 0
    assert kept < used  # the streams nobody reads after the last attention go too


def test_training_form_may_change_or_go_afterwards(images: torch.Tensor) -> None:
    network = build(BASE)
    model = InferenceModel(network)
    before = model.encode(images)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(model.encode(images), before)


def test_bfloat16_stays_near_float32(network: FlowMo, images: torch.Tensor) -> None:
    wide, narrow = InferenceModel(network), InferenceModel(network, dtype=torch.bfloat16)
    condition = with_mask(wide.quantize(wide.encode(images)))
    expected = wide.velocity(images, 0.5, condition)
    came = narrow.velocity(images, 0.5, condition)
    assert came.dtype == torch.float32
    assert float((came - expected).norm() / expected.norm()) < 0.03


def test_modulation_of_many_times_does_not_pile_up(network: FlowMo) -> None:
    model = InferenceModel(network)
    for steps in (25, MAX_MODULATION_ROWS, 40):
        times = time_grid(SamplerConfig(steps=steps))
        rows = model.modulation(times)
        # What is forgotten and computed again is the same.
        torch.testing.assert_close(rows, InferenceModel(network).modulation(times))
        assert len(model._rows) <= MAX_MODULATION_ROWS


@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan")])
def test_times_outside_the_flow_are_refused(network: FlowMo, t: float) -> None:
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        InferenceModel(network).modulation([t])


def test_tokens_there_and_back(network: FlowMo, images: torch.Tensor) -> None:
    model = InferenceModel(network)
    tokens = model.tokenize(images)
    quantized = torch.from_numpy(np.stack([t.signs() for t in tokens]))
    assert torch.equal(quantized, model.quantize(model.encode(images)))
    expected = model.decode(quantized, start=noise([5, 9], (3, 32, 32)))
    assert torch.equal(model.detokenize(tokens, seeds=[5, 9]), expected)
    assert model.detokenize([], seeds=[]).shape == (0, 3, 32, 32)


def test_tokens_of_another_shape_are_refused(network: FlowMo) -> None:
    model = InferenceModel(network)
    strange = Tokens(ids=np.zeros((5, 2), np.int32), group_bits=3)
    with pytest.raises(TokenError, match=r"5 x 2 ids of 3 bits.*4 x 2"):
        model.detokenize([strange], seeds=[0])
    with pytest.raises(TokenError, match="as many seeds"):
        model.detokenize([], seeds=[0])


def test_a_continuous_model_reconstructs_but_has_no_tokens(images: torch.Tensor) -> None:
    import dataclasses

    network = build(dataclasses.replace(BASE, quantizer="gaussian"))
    model = InferenceModel(network)
    with torch.no_grad():
        assert torch.allclose(model.encode(images), network.encode(images), atol=1e-5)
    with pytest.raises(TokenError, match="continuous"):
        model.tokenize(images)


def test_memory_is_told_by_owner_and_the_modulator_stays_with_the_host(network: FlowMo) -> None:
    model = InferenceModel(network)
    owners = model.memory_by_owner()
    assert owners["decoder"] == sum(p.nbytes for p in model.decoder.state_dict().values())
    assert "modulation tables" not in owners
    row = model.modulation([0.5])
    assert model.memory_by_owner()["modulation tables"] == row.nbytes
    # A device that computes nothing stands for a GPU: weights are sent there when they are used.
    elsewhere = InferenceModel(network, device="meta")
    assert elsewhere.modulation([0.5]).is_meta
    assert elsewhere.memory_by_owner()["modulator (host)"] == owners["modulator (host)"]
    table = InferenceModel(network, times=[1.0, 0.5])
    assert "modulator (host)" not in table.memory_by_owner()
