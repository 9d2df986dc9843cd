"""The cost report against counted operations and parameters, and against the reference figures."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowmo.deploy.cost import GPUS, ForwardCost, cost_of
from flowmo.deploy.graphs import HALVES, Half, example, graph_of
from flowmo.deploy.prior_cost import cost_of_prior
from flowmo.deploy.prior_graph import prior_example
from flowmo.model.config import FlowMoConfig, Prediction, preset
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.inference_network import Modulator
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import prior_preset
from flowmo.model.prior.sampler_config import PriorSamplerConfig
from tests.service.fixtures import prior_config


def half_of(config: FlowMoConfig, half: Half, rows: int) -> ForwardCost:
    cost = cost_of(config, rows)
    return cost.encoder if half == "encoder" else cost.decoder


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("rows", [1, 3])
def test_operations_are_those_that_a_counter_sees(
    small: InferenceModel, half: Half, rows: int
) -> None:
    inputs = example(small, half, rows)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        graph_of(small, half)(*inputs)
    cost = half_of(small.config, half, rows)
    assert cost.flops == counter.get_total_flops()
    if rows == 1:  # with more, some linears are counted as batched products, too
        counted = counter.get_flop_counts()["Global"]
        attention = sum(n for operator, n in counted.items() if "bmm" in str(operator))
        assert cost.attention_flops == attention


@pytest.mark.parametrize("half", HALVES)
def test_parameters_are_those_that_are_there(small: InferenceModel, half: Half) -> None:
    network = small.encoder if half == "encoder" else small.decoder
    held = sum(p.numel() for p in network.parameters())
    held += sum(b.numel() for b in network.buffers())
    assert half_of(small.config, half, 4).parameters == held


@pytest.mark.parametrize("prediction", ["velocity", "image"])
def test_a_heads_convolutions_are_counted(small: InferenceModel, prediction: Prediction) -> None:
    config = replace(small.config, head=(8, 6, 4), prediction=prediction)
    model = InferenceModel(FlowMo(config))
    inputs = example(model, "decoder", 3)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        graph_of(model, "decoder")(*inputs)
    cost = cost_of(config, 3).decoder
    assert cost.flops == counter.get_total_flops()
    held = sum(p.numel() for p in model.decoder.parameters())
    held += sum(b.numel() for b in model.decoder.buffers())
    assert cost.parameters == held
    assert cost.activation_bytes > cost_of(small.config, 3).decoder.activation_bytes


def test_modulation_parameters_are_those_of_the_modulator(small_checkpoint: str) -> None:
    model = FlowMo.from_pretrained(str(small_checkpoint))
    held = sum(p.numel() for p in Modulator(model.decoder).parameters())
    assert cost_of(model.config, 1).modulation_parameters == held


def test_lo_at_the_reference_figures() -> None:
    """Computed independently of this code: 3.616 TFLOP with the dead part, 112 an image, 140 ms."""
    cost = cost_of(preset("lo"), 1)
    assert cost.decoder.flops == pytest.approx(3.61e12, rel=0.005)
    assert cost.encoder.flops == pytest.approx(0.855e12, rel=0.005)
    assert cost.forwards == 31
    assert cost.decoder.flops * cost.forwards == pytest.approx(112e12, rel=0.005)
    h100 = GPUS["h100"]
    assert cost.seconds("decoder", h100) * 31 == pytest.approx(0.140, rel=0.01)
    assert cost.seconds("decoder", h100, fp8=True) * 31 == pytest.approx(0.097, rel=0.01)
    assert cost.seconds("encoder", h100) == pytest.approx(1.07e-3, rel=0.01)


def test_a_small_batch_on_slow_memory_is_bound_by_it() -> None:
    cost, gpu = cost_of(preset("tiny"), 1), GPUS["l4"]
    moved = cost.decoder.parameters * 2 + cost.decoder.activation_bytes
    assert cost.seconds("decoder", gpu) == pytest.approx(moved / gpu.bytes_a_second)


def test_a_priors_forward_is_counted() -> None:
    config = replace(prior_config("0" * 32), depth=2, sampler=PriorSamplerConfig(steps=1000))
    prior = Prior(config)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        prior(*prior_example(config, 3))
    cost = cost_of_prior(config, 3)
    assert cost.forward.flops == counter.get_total_flops()
    assert cost.forward.parameters == sum(weight.numel() for weight in prior.parameters())
    # No more steps than ids, and two rows in each with guidance.
    assert (cost.steps, cost.forwards) == (config.length, 2 * config.length)
    unguided = replace(config, sampler=PriorSamplerConfig(steps=4, guidance=1.0))
    assert cost_of_prior(unguided, 3).forwards == 4
    published = cost_of_prior(prior_preset("prior"), 1).forward
    assert published.parameters == pytest.approx(395.9e6, rel=1e-3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one row, got 0"):
        cost_of(preset("tiny"), 0)
    with pytest.raises(ConfigError, match="at least one row, got 0"):
        cost_of_prior(prior_preset("prior"), 0)
    with pytest.raises(ConfigError, match="has no fp8"):
        cost_of(preset("tiny"), 1).seconds("decoder", GPUS["a100"], fp8=True)
