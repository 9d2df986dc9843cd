"""muP: roles and rates by the table, and the coordinate check that shows that they are right."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.training.config import (
    Init,
    LossWeights,
    OptimizerConfig,
    Parametrization,
    TrainConfig,
)
from flowmo.training.loop.generators import Generators
from flowmo.training.loop.weight_norm import WeightNormFixer
from flowmo.training.recipes import recipe
from flowmo.training.tasks.flow import GENERATORS, draw
from flowmo.training.tasks.mup import initialize, parameter_groups, role
from flowmo.training.tasks.pretrain import stage_1a


def _config(width: int, *, heads: int = 4) -> FlowMoConfig:
    # As in the published family, the number of heads is fixed and the head dimension grows.
    transformer = TransformerConfig(width=width, depth=1, heads=heads)
    return FlowMoConfig(
        image_size=16,
        patch_size=4,
        encoder=transformer,
        decoder=transformer,
        code_length=4,
        token_bits=6,
        group_bits=3,
    )


def test_roles_and_rates_follow_the_table() -> None:
    config, options = _config(128), OptimizerConfig(base_width=64)
    model = FlowMo(config)
    rates = {
        id(p): group.multiplier
        for group in parameter_groups(model, config, options)
        for p in group.parameters
    }
    expected = {
        "decoder.img_in.weight": ("input", 1.0),
        "decoder.txt_in.weight": ("input", 1.0),
        "decoder.time_in.in_layer.weight": ("input", 1.0),
        "decoder.time_in.out_layer.weight": ("hidden", 0.5),
        "decoder.double_blocks.0.img_attn.qkv.weight": ("hidden", 0.5),
        "decoder.double_blocks.0.img_mod.lin.weight": ("hidden", 0.5),
        "decoder.double_blocks.0.txt_mlp.2.weight": ("hidden", 0.5),
        "decoder.final_layer_img.adaLN_modulation.1.weight": ("hidden", 0.5),
        "decoder.final_layer_img.linear.weight": ("readout", 0.5),
        "encoder.final_layer_txt.linear.weight": ("readout", 0.5),
        "decoder.double_blocks.0.img_attn.qkv.bias": ("vector", 1.0),
        "decoder.double_blocks.0.img_attn.norm.query_norm.scale": ("vector", 1.0),
    }
    for name, (kind, multiplier) in expected.items():
        parameter = model.get_parameter(name)
        assert role(name, parameter) == kind, name
        assert rates[id(parameter)] == multiplier, name
    assert len(rates) == len(list(model.parameters()))


def test_encoder_and_decoder_scale_by_their_own_widths() -> None:
    decoder = TransformerConfig(width=128, depth=1, heads=4)
    config = FlowMoConfig.from_dict(_config(64).to_dict() | {"decoder": decoder.to_dict()})
    model = FlowMo(config)
    rates = {
        id(p): group.multiplier
        for group in parameter_groups(model, config, OptimizerConfig(base_width=64))
        for p in group.parameters
    }
    qkv = "double_blocks.0.img_attn.qkv.weight"
    assert rates[id(model.get_parameter(f"encoder.{qkv}"))] == 1.0
    assert rates[id(model.get_parameter(f"decoder.{qkv}"))] == 0.5


def test_both_parametrizations_agree_at_the_base_width() -> None:
    config = _config(64)
    weights = []
    kinds: tuple[Parametrization, ...] = ("mup", "standard")
    for kind in kinds:
        options = OptimizerConfig(base_width=64, parametrization=kind)
        model = FlowMo(config)
        initialize(model, config, options, seed=3)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
        assert {g.multiplier for g in parameter_groups(model, config, options)} == {1.0}
    assert torch.equal(*weights)


def test_weight_decay_is_on_matrices_only() -> None:
    config = _config(64)
    groups = parameter_groups(FlowMo(config), config, OptimizerConfig(weight_decay=0.1))
    for group in groups:
        for parameter in group.parameters:
            assert group.weight_decay == (0.1 if parameter.ndim >= 2 else 0.0)


WATCHED = (
    "double_blocks.0.img_mod.lin",
    "double_blocks.0.img_attn.qkv",
    "double_blocks.0.img_mlp.2",
    "final_layer_img.linear",
)


def _activation_changes(
    width: int, parametrization: Parametrization, init: Init = "adaln-zero"
) -> list[float]:
    """Root mean square change of decoder activations by four Adam steps on one batch."""
    model_config = _config(width, heads=12)
    options = OptimizerConfig(learning_rate=1e-3, parametrization=parametrization, init=init)
    config = TrainConfig(
        model=model_config, optimizer=options, steps=1, batch_size=8, condition_dropout=0.0
    )
    model = FlowMo(model_config)
    initialize(model, model_config, options, seed=0)
    optimizer = torch.optim.AdamW(
        [
            {"params": group.parameters, "lr": options.learning_rate * group.multiplier}
            for group in parameter_groups(model, model_config, options)
        ],
        betas=options.betas,
        weight_decay=0.0,
        fused=True,
    )
    seen: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Any:
        def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
            seen[name] = output.detach()

        return hook

    for name in WATCHED:
        model.decoder.get_submodule(name).register_forward_hook(remember(name))
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    total = stage_1a(model, images, draws, config.losses).total
    first = dict(seen)
    for _ in range(4):
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
        total = stage_1a(model, images, draws, config.losses).total
    return [(seen[n] - first[n]).square().mean().sqrt().item() for n in WATCHED]


@pytest.mark.parametrize(
    ("parametrization", "init", "tolerance"),
    [
        ("mup", "adaln-zero", 1.15),
        # Its velocity readout and hidden biases are drawn, and so vary from width to width.
        ("mup", "published", 1.3),
        ("standard", "adaln-zero", None),
    ],
)
def test_coordinate_check(
    parametrization: Parametrization, init: Init, tolerance: float | None
) -> None:
    """At the published widths 2, 4 and 6 (x 192), muP moves activations by the same amount."""
    changes = [_activation_changes(192 * w, parametrization, init) for w in (2, 4, 6)]
    for name, narrow, base, wide in zip(WATCHED, *changes, strict=True):
        if tolerance is not None:
            assert max(narrow, base, wide) < tolerance * min(narrow, base, wide), name
        else:
            assert narrow < base < wide, name
            assert wide > 1.8 * narrow, name


def test_a_head_has_a_rate_of_its_own_and_starts_as_nothing(micro_model: FlowMoConfig) -> None:
    config = replace(micro_model, head=(8, 4))
    model = FlowMo(config)
    optimizer = OptimizerConfig(parametrization="mup", base_width=64, head_rate=4.0)
    initialize(model, config, optimizer, seed=0)
    rates = {
        id(parameter): group.multiplier
        for group in parameter_groups(model, config, optimizer)
        for parameter in group.parameters
    }
    for name, parameter in model.named_parameters():
        if name.startswith("head."):
            assert rates[id(parameter)] == 4.0
            is_last = name == "head.out.weight"
            assert bool(parameter.any()) == (parameter.ndim > 1 and not is_last), name
    pixels = model.get_parameter("head.pixels.weight")
    assert pixels[:, :3].any()
    assert not pixels[:, 3:].any()  # of the noisy image
    hidden = model.get_parameter("decoder.double_blocks.0.img_mlp.0.weight")
    assert rates[id(hidden)] == 2.0  # of width 32 at a base of 64
    readout = model.get_parameter("decoder.final_layer_img.linear.weight")
    assert not readout[: config.patch_dim].any()
    spread = readout[config.patch_dim :].std().item()
    assert spread == pytest.approx(config.decoder.width**-0.5, rel=0.1)


def test_published_weights_are_those_of_fresh_layers_but_for_the_gates() -> None:
    config = _config(128)
    model = FlowMo(config)
    optimizer = OptimizerConfig(init="published", base_width=None)
    initialize(model, config, optimizer, seed=0)
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        bound = module.in_features**-0.5
        open_rows = torch.ones(module.out_features, dtype=torch.bool)
        if name.endswith("_mod.lin"):
            gates = open_rows.view(6, -1)
            gates[2], gates[5] = False, False
        for parameter in (module.weight, module.bias):
            assert parameter.abs().max() <= bound, name
            assert not parameter[~open_rows].any(), name
        drawn = module.weight[open_rows]
        assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
    assert {g.multiplier for g in parameter_groups(model, config, optimizer)} == {1.0}


def test_published_modulations_keep_their_norms() -> None:
    """They begin with one; with adaLN-zero they begin with none, which none could keep."""
    config = _config(64)
    held = {}
    for init in ("adaln-zero", "published"):
        model = FlowMo(config)
        initialize(model, config, OptimizerConfig(init=init), seed=0)
        blocks = {n: p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2}
        held[init] = WeightNormFixer(blocks).names
    modulations = {name for name in held["published"] if "_mod.lin" in name}
    assert len(modulations) == 4
    assert set(held["published"]) - set(held["adaln-zero"]) == modulations


@pytest.mark.parametrize("name", ["lo", "hi", "fewer-params", "continuous", "post-train"])
def test_published_recipes_are_the_published_configuration(name: str) -> None:
    config = recipe(name)
    options = config.optimizer
    assert (options.init, options.grad_clip) == ("published", None)
    assert (options.fix_weight_norm, options.betas) == (True, (0.9, 0.95))
    assert not config.data.horizontal_flip
    with torch.device("meta"):
        model = FlowMo(config.model)
    groups = parameter_groups(model, config.model, options)
    assert [group.multiplier for group in groups] == [1.0] * len(groups)
    assert config.losses.kl == (1.0 if name == "continuous" else LossWeights().kl)
    assert config.checkpoint_minutes is not None
