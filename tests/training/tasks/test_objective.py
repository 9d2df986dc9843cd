"""The stage 1A objective against closed forms."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from flowmo.model.config import FlowMoConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.quantizer import GaussianPosterior, lfq_losses
from flowmo.training.config import LossWeights, TrainConfig
from flowmo.training.loop.generators import Generators
from flowmo.training.tasks.batch import split
from flowmo.training.tasks.flow import (
    GENERATORS,
    draw,
    drop_condition,
    fat_logit_normal,
    interpolate,
    shift_times,
)
from flowmo.training.tasks.mup import initialize
from flowmo.training.tasks.objective import weighted_sum
from flowmo.training.tasks.pretrain import stage_1a

KS_1_PERCENT = 1.628


def _model(config: TrainConfig) -> FlowMo:
    model = FlowMo(config.model)
    initialize(model, config.model, config.optimizer, seed=0)
    return model.train()


def _images(config: TrainConfig) -> torch.Tensor:
    size = config.model.image_size
    generator = torch.Generator().manual_seed(5)
    return torch.rand(config.batch_size, 3, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_fat_logit_normal_has_its_distribution(share: float) -> None:
    n = 20_000
    t = fat_logit_normal(n, torch.Generator().manual_seed(1), uniform_share=share)
    x = np.sort(t.double().numpy())
    phi = np.array([0.5 * (1 + math.erf(math.log(v / (1 - v)) / math.sqrt(2))) for v in x])
    cdf = (1 - share) * phi + share * x
    ranks = np.arange(1, n + 1) / n
    distance = max(np.abs(ranks - cdf).max(), np.abs(ranks - 1 / n - cdf).max())
    assert distance < KS_1_PERCENT / math.sqrt(n)
    assert x[0] >= 0
    assert x[-1] <= 1


def test_interpolation_runs_from_image_to_noise_at_constant_velocity() -> None:
    x, eps = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    x_t, v = interpolate(x, eps, torch.tensor([0.0, 0.25, 1.0]))
    assert torch.equal(x_t[0], x[0])
    assert torch.equal(x_t[2], eps[2])
    torch.testing.assert_close(x_t[1], 0.75 * x[1] + 0.25 * eps[1])
    torch.testing.assert_close(v, eps - x)
    # The one-step estimate of the clean image is exact for the true velocity.
    torch.testing.assert_close(x_t[1] - 0.25 * v[1], x[1])


def test_a_dropped_condition_is_all_zero_with_its_mask_channel() -> None:
    condition = torch.ones(3, 2, 5)
    dropped = drop_condition(condition, torch.tensor([True, False, True]))
    assert torch.equal(dropped[1], torch.zeros(2, 5))
    assert torch.equal(dropped[[0, 2]], condition[[0, 2]])


def test_draws_follow_the_config(run_config: Callable[..., TrainConfig]) -> None:
    config = run_config(batch_size=4000, condition_dropout=0.1)
    draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    assert draws.noise.shape == (4000, 3, 32, 32)
    assert draws.posterior is None
    dropped = 1 - draws.keep.float().mean().item()
    assert dropped == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 4000))
    none = draw(
        run_config(condition_dropout=0.0), Generators.seeded(0, torch.device("cpu"), GENERATORS)
    )
    assert none.keep.all()


def test_splitting_draws_loses_nothing(run_config: Callable[..., TrainConfig]) -> None:
    draws = draw(run_config(batch_size=6), Generators.seeded(3, torch.device("cpu"), GENERATORS))
    parts = split(draws, 3)
    assert [len(p.t) for p in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([p.noise for p in parts]), draws.noise)
    assert torch.equal(torch.cat([p.keep for p in parts]), draws.keep)


def test_kinds_of_draws_do_not_influence_each_other(
    run_config: Callable[..., TrainConfig],
) -> None:
    cpu = torch.device("cpu")
    few = draw(run_config(uniform_share=0.0), Generators.seeded(7, cpu, GENERATORS))
    many = draw(
        run_config(uniform_share=1.0, condition_dropout=0.9), Generators.seeded(7, cpu, GENERATORS)
    )
    assert torch.equal(few.noise, many.noise)
    assert not torch.equal(few.t, many.t)


def test_the_objective_is_the_weighted_sum_of_its_named_terms(
    run_config: Callable[..., TrainConfig],
) -> None:
    config = run_config(losses=LossWeights(flow=2.0, entropy=0.5, commitment=0.25))
    model, images = _model(config), _images(config)
    draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    objective = stage_1a(model, images, draws, config.losses)
    terms = {term.name: term.value.item() for term in objective.terms}
    lfq = lfq_losses(model.encode(images), config.model.group_bits)
    # The velocity readout starts at zero, so the first flow loss is the mean of v squared.
    assert terms["flow"] == pytest.approx((draws.noise - images).square().mean().item(), rel=1e-5)
    assert terms["entropy"] == pytest.approx(lfq.entropy.item(), rel=1e-5)
    assert terms["commitment"] == pytest.approx(lfq.commitment.item(), rel=1e-5)
    total = 2.0 * terms["flow"] + 0.5 * terms["entropy"] + 0.25 * terms["commitment"]
    assert objective.total.item() == pytest.approx(total, rel=1e-5)
    assert weighted_sum(objective.terms[:1]).item() == pytest.approx(2 * terms["flow"])


def test_the_flow_loss_reaches_the_encoder_through_the_signs(
    run_config: Callable[..., TrainConfig],
) -> None:
    config = run_config(losses=LossWeights(entropy=0.0, commitment=0.0), condition_dropout=0.0)
    model, images = _model(config), _images(config)
    with torch.no_grad():  # open what adaLN-zero closes at the start
        for name, parameter in model.named_parameters():
            if "mod" in name or "final" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    gradient = torch.autograd.grad(
        stage_1a(model, images, draws, config.losses).total, model.encoder.img_in.weight
    )[0]
    assert gradient.abs().max() > 0


def test_a_frozen_encoder_has_no_quantizer_terms(run_config: Callable[..., TrainConfig]) -> None:
    config = run_config()
    model, images = _model(config), _images(config)
    draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    trained = stage_1a(model, images, draws, config.losses)
    assert [term.name for term in trained.terms] == ["flow", "entropy", "commitment"]
    model.encoder.requires_grad_(False)
    frozen = stage_1a(model, images, draws, config.losses)
    assert [term.name for term in frozen.terms] == ["flow"]
    assert torch.equal(frozen.terms[0].value, trained.terms[0].value)
    with torch.no_grad():  # who only measures gets all of them
        assert len(stage_1a(model, images, draws, config.losses).terms) == 3


def test_the_continuous_objective_samples_its_posterior_from_the_draws(
    run_config: Callable[..., TrainConfig], micro_model: FlowMoConfig
) -> None:
    continuous = FlowMoConfig.from_dict(micro_model.to_dict() | {"quantizer": "gaussian"})
    config = run_config(model=continuous)
    model, images = _model(config), _images(config)
    draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    assert draws.posterior is not None
    objective = stage_1a(model, images, draws, config.losses)
    assert [term.name for term in objective.terms] == ["flow", "kl"]
    posterior = GaussianPosterior(model.encode(images))
    assert objective.terms[1].value.item() == pytest.approx(posterior.kl().item(), rel=1e-5)
    again = stage_1a(model, images, draws, config.losses)
    assert torch.equal(objective.total, again.total)


def test_shifted_times_keep_the_ends_and_move_the_middle() -> None:
    t = torch.tensor([0.0, 0.5, 1.0])
    assert shift_times(t, 3.0).tolist() == pytest.approx([0.0, 0.75, 1.0])
    assert torch.allclose(shift_times(shift_times(t, 3.0), 1 / 3), t)
    assert torch.equal(shift_times(t, 1.0), t)
