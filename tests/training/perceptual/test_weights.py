"""Weights: their initial values, their moving average, and the norms that are held."""

import math

import pytest
import torch
from torch import nn

from flowmo.model.config import FlowMoConfig
from flowmo.model.flowmo import FlowMo
from flowmo.training.config import OptimizerConfig, TrainConfig
from flowmo.training.loop.ema import WeightEMA
from flowmo.training.loop.weight_norm import WeightNormFixer
from flowmo.training.tasks.mup import initialize
from flowmo.training.tasks.pretrain import PretrainTask


def test_ema_is_its_closed_form() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = WeightEMA(model, decay=0.9)
    nn.init.constant_(model.weight, 3.0)
    for step in range(1, 6):
        ema.update(step)
    # From 1 towards 3: 3 - 2 d^5.
    assert ema.shadow["weight"].item() == pytest.approx(3 - 2 * 0.9**5, rel=1e-6)


def test_a_ramped_ema_follows_closely_at_first_and_reaches_its_decay() -> None:
    ema = WeightEMA(nn.Linear(1, 1), decay=0.99, ramp=True)
    assert ema.decay_at(1) == pytest.approx(2 / 11)
    assert ema.decay_at(10_000) == 0.99
    assert WeightEMA(nn.Linear(1, 1), decay=0.99).decay_at(1) == 0.99


def test_swapping_in_is_undone_even_after_an_error() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = WeightEMA(model, decay=0.5)
    nn.init.constant_(model.weight, 2.0)
    parameter = model.weight

    def fail() -> None:
        with ema.swapped_in():
            assert model.weight.item() == 1.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert model.weight is parameter
    assert model.weight.item() == 2.0
    assert ema.shadow["weight"].item() == 1.0


@pytest.fixture
def model(micro_model: FlowMoConfig) -> FlowMo:
    model = FlowMo(micro_model)
    initialize(model, micro_model, OptimizerConfig(), seed=0)
    return model


def _fixer(model: FlowMo) -> WeightNormFixer:
    config = TrainConfig(model=model.config, steps=1)
    return WeightNormFixer(PretrainTask(config, torch.device("cpu")).held_matrices(model))


def test_block_matrices_keep_their_norms_and_all_else_is_left_alone(model: FlowMo) -> None:
    fixer = _fixer(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    changed = {name: p.detach().clone() for name, p in model.named_parameters()}
    fixer.apply()
    held = set(fixer.names)
    assert held == {
        f"{half}.double_blocks.0.{stream}_{matrix}.weight"
        for half in ("encoder", "decoder")
        for stream in ("img", "txt")
        for matrix in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")
    }
    for name, parameter in model.named_parameters():
        if name in held:
            assert parameter.norm().item() == pytest.approx(before[name].norm().item(), rel=1e-5)
            cosine = nn.functional.cosine_similarity(
                parameter.flatten(), changed[name].flatten(), 0
            )
            assert cosine.item() == pytest.approx(1.0, abs=1e-5)
        else:
            assert torch.equal(parameter, changed[name])


def test_zero_modulations_are_exempt_and_can_grow(model: FlowMo) -> None:
    fixer = _fixer(model)
    weight = model.get_parameter("decoder.double_blocks.0.img_mod.lin.weight")
    assert weight.norm() == 0
    nn.init.ones_(weight)
    fixer.apply()
    assert torch.equal(weight, torch.ones_like(weight))


def test_held_norms_survive_saving(model: FlowMo, micro_model: FlowMoConfig) -> None:
    state = {name: norm.clone() for name, norm in _fixer(model).state().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    late = _fixer(model)  # as after a restart, when weights are no longer initial
    late.load_state(state, model)
    late.apply()
    for name, norm in state.items():
        assert model.get_parameter(name).norm().item() == pytest.approx(norm.item(), rel=1e-5)


def test_a_fresh_network_predicts_zero_velocity_and_a_varied_code(
    model: FlowMo, micro_model: FlowMoConfig
) -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    code = model.encode(images)
    assert 0.2 < (code > 0).float().mean() < 0.8
    condition = torch.ones(8, micro_model.code_length, micro_model.token_bits + 1)
    assert model.velocity(images, 0.5, condition).abs().max() == 0


def test_initial_weights_depend_on_the_seed_alone(micro_model: FlowMoConfig) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(3)  # the global generator must not matter
        model = FlowMo(micro_model)
        initialize(model, micro_model, OptimizerConfig(), seed=seed)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert math.isfinite(weights(1).sum().item())
