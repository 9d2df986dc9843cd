"""The sampling chain of stage 1B against closed forms, and its gradients."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.network import with_mask
from flowmo.model.sampler import time_grid
from flowmo.training.config import TrainConfig
from flowmo.training.tasks.chain import random_times, sample_chain
from flowmo.training.tasks.mup import initialize

KS_1_PERCENT = 1.628


def _open_model(config: TrainConfig) -> FlowMo:
    """A network whose gates and readouts are not the zeros that training starts from."""
    model = FlowMo(config.model)
    initialize(model, config.model, config.optimizer, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mod" in name or "final" in name:
                parameter.normal_(std=0.1, generator=generator)
    return model.train()


def _inputs(model: FlowMo, rows: int = 3) -> tuple[Tensor, Tensor]:
    config, generator = model.config, torch.Generator().manual_seed(2)
    start = torch.randn(rows, 3, config.image_size, config.image_size, generator=generator)
    shape = (rows, config.code_length, config.token_bits)
    return start, with_mask(torch.randn(shape, generator=generator).sign())


def test_times_are_sums_of_what_is_left_of_the_spacing() -> None:
    times = random_times(torch.tensor([[1.0, 2.0, 1.0], [0.5, 0.0, 0.5]]))
    torch.testing.assert_close(
        times, torch.tensor([[1.0, 0.75, 0.25, 0.0], [1.0, 0.5, 0.5, 0.0]]), atol=1e-6, rtol=0
    )
    assert (times.diff(dim=1) < 0).all()


def test_random_times_have_their_distribution() -> None:
    n = 20_000
    spacing = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    x = np.sort(random_times(spacing)[:, 1].double().numpy())
    # u2 / (u1 + u2) of two uniform numbers.
    cdf = np.where(x <= 0.5, x / (2 * (1 - x)), 1 - (1 - x) / (2 * x))
    ranks = np.arange(1, n + 1) / n
    distance = max(np.abs(ranks - cdf).max(), np.abs(ranks - 1 / n - cdf).max())
    assert distance < KS_1_PERCENT / math.sqrt(n)


def test_the_chain_of_a_straight_flow_ends_at_its_image(
    run_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _open_model(run_config())
    start, condition = _inputs(model)
    image = torch.rand_like(start) * 2 - 1
    monkeypatch.setattr(model, "velocity", lambda x, t, condition: start - image)
    times = random_times(torch.rand(3, 5, generator=torch.Generator().manual_seed(0)))
    came = sample_chain(model, condition, start, times, recompute=False)
    torch.testing.assert_close(came, image, atol=1e-5, rtol=0)


def test_the_chain_is_the_sampler_on_the_samplers_grid(
    run_config: Callable[..., TrainConfig],
) -> None:
    model = _open_model(run_config())
    start, condition = _inputs(model)
    sampler = SamplerConfig(steps=4, guidance=1.0)
    times = torch.tensor(time_grid(sampler)).expand(3, -1)
    came = sample_chain(model, condition, start, times, recompute=True).clamp(-1, 1)
    expected = model.decode(condition[..., :-1], start=start, sampler=sampler)
    torch.testing.assert_close(came, expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_the_recomputed_chain_are_those_of_the_plain_chain(
    run_config: Callable[..., TrainConfig],
) -> None:
    model = _open_model(run_config())
    start, condition = _inputs(model)
    times = random_times(torch.rand(3, 4, generator=torch.Generator().manual_seed(0)))
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        sample_chain(model, condition, start, times, recompute=recompute).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    assert any(name.startswith("decoder.double_blocks") for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, recomputed[name], atol=1e-7, rtol=1e-5)


def test_gradients_reach_back_through_every_step(run_config: Callable[..., TrainConfig]) -> None:
    """The directional derivative of the chain is that of finite differences."""
    model = _open_model(run_config()).double()
    start, condition = (x.double() for x in _inputs(model, rows=2))
    times = random_times(torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).double())
    weight = model.decoder.double_blocks[0].get_parameter("img_mlp.0.weight")
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).double()

    def loss() -> Tensor:
        return sample_chain(model, condition, start, times, recompute=True).square().mean()

    gradient = torch.autograd.grad(loss(), weight)[0]
    step = 1e-4
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.add_(sign * step * direction)
            values.append(loss().item())
            weight.sub_(sign * step * direction)
    assert (gradient * direction).sum().item() == pytest.approx(
        (values[0] - values[1]) / (2 * step),
        rel=1e-3,  # norms and the chain's state are float32 inside
    )
