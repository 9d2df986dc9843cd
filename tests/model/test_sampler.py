"""The sampler against velocity fields whose flow is known."""

import math

import pytest
import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.sampler import (
    SamplerStep,
    count_forwards,
    euler,
    guidance_bounds,
    guided,
    noise,
    time_grid,
)


def test_default_grid_is_the_fourth_power() -> None:
    times = time_grid(SamplerConfig())
    assert len(times) == 26
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert times[5] == pytest.approx(0.8**4)


def test_linear_and_explicit_grids() -> None:
    assert time_grid(SamplerConfig(schedule="linear", steps=4)) == (1.0, 0.75, 0.5, 0.25, 0.0)
    explicit = (1.0, 0.3, 0.0)
    assert time_grid(SamplerConfig(schedule="explicit", times=explicit)) == explicit


def test_merged_is_the_power_grid_with_its_last_six_steps_as_one() -> None:
    whole, merged = SamplerConfig(), SamplerConfig(schedule="merged", steps=20)
    assert time_grid(merged) == (*time_grid(whole)[:20], 0.0)
    assert time_grid(merged)[-2] == pytest.approx(0.0033, abs=5e-5)
    assert count_forwards(merged) == count_forwards(whole) - 5
    assert time_grid(SamplerConfig(schedule="merged", steps=1)) == (1.0, 0.0)


def test_guidance_interval_in_flow_time_and_its_cost() -> None:
    low, high = guidance_bounds(SamplerConfig())
    assert (round(low, 4), round(high, 4)) == (0.1453, 0.5050)
    assert count_forwards(SamplerConfig()) == 31  # 25 steps, 6 of them guided
    assert count_forwards(SamplerConfig(guidance=1.0)) == 25


@pytest.mark.parametrize("schedule", ["power", "linear", "merged"])
def test_a_straight_flow_is_exact_in_any_number_of_steps(schedule: str) -> None:
    image, start = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    config = SamplerConfig(schedule=schedule, steps=3)  # type: ignore[arg-type]
    end = euler(lambda x, t: start - image, start, time_grid(config))
    assert torch.allclose(end, image, atol=1e-6)


def test_euler_on_an_exponential_field() -> None:
    # dx/dt = x: each step multiplies by (1 - dt).
    end = euler(lambda x, t: x, torch.tensor([2.0]), (1.0, 0.75, 0.5, 0.0))
    assert end.item() == pytest.approx(2.0 * 0.75 * 0.75 * 0.5)


def test_euler_converges_at_first_order() -> None:
    def error(steps: int) -> float:
        times = time_grid(SamplerConfig(schedule="linear", steps=steps))
        end = euler(lambda x, t: x, torch.ones(1, dtype=torch.float64), times)
        return abs(end.item() - math.exp(-1))

    assert error(400) == pytest.approx(error(200) / 2, rel=0.02)


def test_gradients_flow_through_the_chain() -> None:
    start = torch.tensor([3.0], requires_grad=True)
    gain = torch.tensor(0.5, requires_grad=True)
    end = euler(lambda x, t: gain * x, start, (1.0, 0.5, 0.0))
    end.backward()
    assert start.grad is not None
    assert gain.grad is not None
    assert start.grad.item() == pytest.approx(0.75**2)  # (1 - gain / 2)^2
    assert gain.grad.item() == pytest.approx(3.0 * 2 * 0.75 * -0.5)


def test_observer_sees_every_step_and_the_clean_estimate() -> None:
    image, start = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    seen: list[SamplerStep] = []
    euler(lambda x, t: start - image, start, (1.0, 0.4, 0.0), observer=seen.append)
    assert [(p.step, p.steps, p.t) for p in seen] == [(1, 2, 1.0), (2, 2, 0.4)]
    for preview in seen:
        assert torch.allclose(preview.estimate, image, atol=1e-6)
    assert torch.allclose(seen[-1].x, image, atol=1e-6)


@pytest.mark.parametrize("times", [(1.0,), (0.0, 1.0), (1.0, 0.5, 0.5, 0.0)])
def test_times_that_do_not_descend_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="descend"):
        euler(lambda x, t: x, torch.zeros(1), times)


def test_guided_step_is_one_call_of_two_rows_an_image() -> None:
    calls: list[int] = []

    def network(x: Tensor, t: float, condition: Tensor) -> Tensor:
        calls.append(len(x))
        return condition

    condition = torch.tensor([[3.0], [5.0]])
    field = guided(network, condition, torch.zeros_like(condition), SamplerConfig())
    x = torch.zeros(2, 1)
    assert field(x, 0.3).tolist() == [[4.5], [7.5]]  # 0 + 1.5 (v_cond - 0)
    assert field(x, 0.9).tolist() == [[3.0], [5.0]]
    assert field(x, 0.1).tolist() == [[3.0], [5.0]]
    assert calls == [4, 2, 2]


def test_noise_depends_on_seed_and_shape_alone() -> None:
    together = noise([5, 6, 5], (3, 8, 8))
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(noise([6], (3, 8, 8))[0], together[1])
    state = torch.random.get_rng_state()
    noise([1], (3, 8, 8))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_noise_of_a_seed_never_changes() -> None:
    # Stored tokens with a seed must decode to the same image in every release.
    first = noise([0], (3, 8, 8)).flatten()[:3]
    assert first.tolist() == pytest.approx([-1.1258398, -1.1523602, -0.2505786])


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
def test_seeds_out_of_range_are_refused(seed: object) -> None:
    with pytest.raises(ConfigError, match="seed"):
        noise([seed], (3, 8, 8))  # type: ignore[list-item]
