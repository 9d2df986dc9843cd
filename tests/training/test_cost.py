"""What training costs: the count on fake tensors against real saved tensors, and the command."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from typer.testing import CliRunner

from flowmo.cli import app
from flowmo.model.attention import attention_form
from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.prior.checkpoint import Prior
from flowmo.training.config import OptimizerConfig, PerceptualConfig, TrainConfig
from flowmo.training.config.run import Recompute
from flowmo.training.cost import training_cost
from flowmo.training.loop.generators import Generators
from flowmo.training.loop.step import autocast
from flowmo.training.perceptual.losses import perceptual_network
from flowmo.training.recipes import recipe
from flowmo.training.tasks.flow import GENERATORS, draw
from flowmo.training.tasks.mup import initialize
from flowmo.training.tasks.pretrain import PretrainTask, stage_1a


def _run(width: int, depth: int, *, recompute: Recompute = "none", batch: int = 2) -> TrainConfig:
    half = TransformerConfig(width=width, depth=depth, heads=2)
    model = FlowMoConfig(
        image_size=32,
        patch_size=4,
        encoder=half,
        decoder=half,
        code_length=8,
        token_bits=6,
        group_bits=3,
    )
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(init="published"),
        steps=10,
        batch_size=batch,
        recompute=recompute,
        device="cpu",
    )


def _loss(config: TrainConfig) -> tuple[FlowMo, Tensor]:
    model = PretrainTask(config, torch.device("cpu")).build_model().train()
    size = config.model.image_size
    images = torch.rand(
        config.batch_size, 3, size, size, generator=torch.Generator().manual_seed(1)
    )
    draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    network = perceptual_network(config.perceptual, torch.device("cpu"))
    with autocast(config.precision, torch.device("cpu")):
        return model, stage_1a(model, images * 2 - 1, draws, config.losses, network).total


def _really_kept(config: TrainConfig) -> int:
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), attention_form("fused"):
        model, _ = _loss(config)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


@pytest.mark.parametrize(("width", "depth"), [(32, 1), (64, 3)])
def test_memory_is_what_backward_really_keeps(width: int, depth: int) -> None:
    few, many = _run(width, depth, batch=2), _run(width, depth, batch=6)
    really = (_really_kept(many) - _really_kept(few)) / 4
    cost = training_cost(many)
    assert cost.micro_batch == 6
    assert cost.memory["activations"] / 6 == pytest.approx(really, rel=0.02)
    parameters = sum(p.numel() for p in FlowMo(many.model).parameters())
    assert cost.parameters == parameters
    fixed = ("weights", "gradients", "adam", "average")
    assert sum(cost.memory[part] for part in fixed) == 20 * parameters


def test_the_perceptual_network_is_counted_too() -> None:
    judge = PerceptualConfig(network="efficientnet-lite0", weights="random")
    few, many = (replace(_run(32, 1, batch=n), perceptual=judge) for n in (2, 4))
    really = (_really_kept(many) - _really_kept(few)) / 2
    cost, plain = training_cost(many), training_cost(_run(32, 1, batch=4))
    assert cost.memory["activations"] / 4 == pytest.approx(really, rel=0.02)
    assert cost.memory["activations"] > 1.5 * plain.memory["activations"]
    network = perceptual_network(judge, torch.device("cpu"))
    assert network is not None
    assert cost.memory["perceptual"] >= 4 * sum(p.numel() for p in network.parameters())
    assert "perceptual" not in plain.memory


def test_recomputation_keeps_little_and_costs_a_forward() -> None:
    plain, again = (training_cost(_run(64, 3, recompute=r)) for r in ("none", "blocks"))
    assert again.memory["activations"] < 0.4 * plain.memory["activations"]
    assert 1.2 < again.flops / plain.flops < 1.4


@pytest.mark.parametrize(
    ("form", "compiled"), [("fused", False), ("explicit", False), ("fused", True)]
)
def test_recomputation_changes_no_gradient(form: str, compiled: bool) -> None:
    gradients = []
    for recompute in ("none", "blocks"):
        config = replace(_run(32, 1), recompute=recompute, precision="float32")
        model = PretrainTask(config, torch.device("cpu")).build_model().train()
        initialize(model, config.model, OptimizerConfig(initial_gate=0.5), seed=0)
        draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
        images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
        objective = torch.compile(stage_1a, backend="aot_eager") if compiled else stage_1a
        with attention_form(form):  # type: ignore[arg-type]
            total = objective(model, images, draws, config.losses).total
            torch.autograd.backward(total)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.allclose(again[name], gradient, rtol=1e-4, atol=1e-7), name


def test_the_command_says_memory_time_and_days() -> None:
    asked = ["cost", "--train", "tiny-pretrain", "--gpus", "2", "--json", "-s", "batch_size=16"]
    report = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).output)
    assert (report["micro_batch"], report["gpus"]) == (8, 2)
    memory = report["memory_bytes"]
    assert memory.pop("all") == sum(memory.values())
    assert report["fits"]
    assert report["days"] == pytest.approx(report["steps"] * report["step_floor_seconds"] / 86_400)


def test_a_priors_operations_are_the_formula() -> None:
    config = recipe("prior-tiny")
    config = replace(config, model=replace(config.model, depth=2, code_length=16))
    sizes, cost = config.model, training_cost(config)
    width, places = sizes.width, sizes.length + 1  # the class is a place, too
    linears = places * sizes.depth * (4 * width**2 + 3 * width * sizes.mlp_width)
    attention = 2 * places**2 * width * sizes.depth
    readout = sizes.length * (width**2 + width * sizes.vocabulary)
    assert cost.flops == 3 * 2 * config.batch_size * (linears + attention + readout)
    assert cost.parameters == sum(one.numel() for one in Prior(sizes).parameters())


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ConfigError, match="must divide batch_size, got 3 x 1 and 2"):
        training_cost(_run(32, 1), gpus=3)
