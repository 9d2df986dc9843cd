"""Sampling ids against what is known in closed form."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.network import initialize
from flowmo.model.prior.sampler import (
    PriorStep,
    guided,
    masked_start,
    rows_of_guidance,
    sample_ids,
    temperature_at,
)
from flowmo.model.prior.sampler_config import MaskSchedule, PriorSamplerConfig
from flowmo.model.prior.schedule import MEAN_RATE, mask_counts, mask_rate, reveal_counts
from tests.model.prior.test_prior import MICRO

EXACT = PriorSamplerConfig(steps=3, annealing=(1.0, 1.0), randomness=1e6)


def generators(count: int, *, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + seed) for seed in range(count)]


def conditionals(joint: Tensor) -> Callable[[Tensor], Tensor]:
    """The logits of a network that knows a distribution over 3 ids of 0 or 1; 2 is the mask."""
    states = torch.tensor(list(itertools.product(range(2), repeat=3)))

    def logits(ids: Tensor) -> Tensor:
        fits = ((ids[:, None] == states) | (ids[:, None] == 2)).all(-1)  # [B, 8]
        weight = fits * joint.flatten()
        there = torch.nn.functional.one_hot(states, 2).float()  # [8, 3, 2]
        return torch.einsum("bs,snv->bnv", weight, there).clamp(min=1e-12).log()

    return logits


def test_a_known_distribution_is_recovered() -> None:
    """4,000 samples of 8 states: a total variation of 0.02 is expected, 0.045 is the bound."""
    joint = torch.tensor([0.30, 0.02, 0.03, 0.15, 0.05, 0.10, 0.01, 0.34]).reshape(2, 2, 2)
    rows = 4000
    came = sample_ids(
        conditionals(joint),
        masked_start(rows, 3, 2),
        mask_id=2,
        config=EXACT,
        generators=generators(rows),
    )
    found = torch.zeros(2, 2, 2).index_put_(tuple(came.T), torch.tensor(1.0), accumulate=True)
    assert 0.5 * (found / rows - joint).abs().sum() < 0.045
    # All at once the ids are independent, which this distribution is far from: the bound can fail.
    product = came[torch.randperm(rows, generator=torch.Generator().manual_seed(0)), 0]
    mixed = torch.stack([product, came[:, 1], came[:, 2]])
    wrong = torch.zeros(2, 2, 2).index_put_(tuple(mixed), torch.tensor(1.0), accumulate=True)
    assert 0.5 * (wrong / rows - joint).abs().sum() > 0.045


def test_one_step_at_temperature_0_is_argmax() -> None:
    logits = torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0))
    config = PriorSamplerConfig(steps=1, temperature=0.0)
    came = sample_ids(
        lambda _: logits,
        masked_start(5, 7, 9),
        mask_id=9,
        config=config,
        generators=generators(5),
    )
    assert torch.equal(came, logits.argmax(-1))


def test_temperature_sharpens_and_is_annealed() -> None:
    logits = torch.tensor([0.0, 1.0]).expand(2000, 1, 2)
    shares = []
    for temperature in (0.25, 1.0, 100.0):
        config = PriorSamplerConfig(steps=1, temperature=temperature, annealing=(1.0, 1.0))
        came = sample_ids(
            lambda _: logits,
            masked_start(2000, 1, 2),
            mask_id=2,
            config=config,
            generators=generators(2000),
        )
        shares.append(came.float().mean().item())
    assert shares == pytest.approx([0.982, 0.731, 0.502], abs=0.03)  # sigmoid(1 / temperature)
    config = PriorSamplerConfig(temperature=2.0, annealing=(1.3, 0.5))
    annealed = [temperature_at(config, step, 5) for step in range(1, 6)]
    assert annealed == pytest.approx([2.6, 2.2, 1.8, 1.4, 1.0])


def test_guidance_shifts_the_logits_and_costs_what_it_says() -> None:
    rows_seen = []

    def logits(ids: Tensor, classes: Tensor) -> Tensor:
        rows_seen.append(len(ids))
        return (ids[..., None] + torch.tensor([1.0, 2.0]) * classes[:, None, None]).float()

    ids, classes = torch.zeros(3, 4, dtype=torch.int64), torch.tensor([1, 2, 3])
    plain = logits(ids, classes)
    null = logits(ids, torch.full((3,), 5))
    rows_seen.clear()
    assert torch.equal(guided(logits, classes, 5, 1.0)(ids), plain)
    assert torch.equal(guided(logits, classes, 5, 0.0)(ids), null)
    assert torch.allclose(guided(logits, classes, 5, 1.5)(ids), null + 1.5 * (plain - null))
    assert rows_seen == [3, 3, 6]
    assert [rows_of_guidance(w) for w in (0.0, 1.0, 1.5)] == [1, 1, 2]
    with pytest.raises(ConfigError, match="guidance must be a number of at least 0, got -1"):
        guided(logits, classes, 5, -1.0)


@pytest.mark.parametrize("schedule", ["arccos", "cosine"])
def test_the_schedule_unmasks_exactly_n_ids(schedule: MaskSchedule) -> None:
    for unknown, steps in itertools.product((0, 1, 5, 63, 64, 512), (1, 3, 64, 600)):
        counts = reveal_counts(unknown, steps, schedule)
        assert sum(counts) == unknown
        assert len(counts) == min(unknown, steps)
        assert all(count >= 1 for count in counts)
    r = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    rates = mask_rate(r, schedule)
    assert (rates[0].item(), rates[-1].item()) == pytest.approx((1.0, 0.0), abs=1e-12)
    assert rates.mean().item() == pytest.approx(MEAN_RATE, abs=1e-4)
    masked = mask_counts(r, 512, schedule)
    assert (int(masked.min()), int(masked.max())) == (1, 512)


def test_the_two_schedules_are_each_others_mirror() -> None:
    # cosine reveals few ids at first and many at the end, arccos many at first.
    cosine, arccos = reveal_counts(512, 8, "cosine"), reveal_counts(512, 8, "arccos")
    assert (cosine[0], cosine[-1]) == (10, 99)
    assert arccos[0] < arccos[-1]
    assert cosine[0] < arccos[0]


def test_every_step_keeps_what_it_found_and_finds_what_was_planned() -> None:
    seen: list[PriorStep] = []
    logits = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0))
    config = PriorSamplerConfig(steps=6)
    came = sample_ids(
        lambda _: logits,
        masked_start(2, 20, 4),
        mask_id=4,
        config=config,
        generators=generators(2),
        observer=seen.append,
    )
    masked = [(one.ids == 4).sum(1).tolist() for one in seen]
    left = [20 - sum(reveal_counts(20, 6, "arccos")[: i + 1]) for i in range(6)]
    assert masked == [[n, n] for n in left]
    for before, after in itertools.pairwise(seen):
        known = before.ids != 4
        assert torch.equal(after.ids[known], before.ids[known])
        assert (after.drawn != 4).all()
    assert torch.equal(seen[-1].ids, came)


def test_certain_ids_come_first() -> None:
    logits = torch.zeros(1, 3, 2)
    logits[0, :, 1] = torch.tensor([1.0, 9.0, 4.0])
    seen: list[PriorStep] = []
    config = PriorSamplerConfig(steps=3, temperature=0.0, randomness=0.0)
    sample_ids(
        lambda _: logits,
        masked_start(1, 3, 2),
        mask_id=2,
        config=config,
        generators=generators(1),
        observer=seen.append,
    )
    assert [one.ids[0].tolist() for one in seen] == [[2, 1, 2], [2, 1, 1], [1, 1, 1]]


@pytest.fixture(scope="module")
def prior() -> Prior:
    model = Prior(MICRO)
    initialize(model, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # so that ids depend on each other
    return model.eval()


def test_kept_ids_stay_and_the_rest_is_filled(prior: Prior) -> None:
    known = torch.tensor([7, 0, 3, 5, 1, 2])
    keep = torch.tensor([True, False, False, True, False, True])
    came = prior.generate([0, 1, 2], seeds=[1, 2, 3], known=known, keep=keep)
    assert (came[:, keep] == known[keep]).all()
    assert ((came >= 0) & (came < MICRO.vocabulary)).all()
    everything = torch.ones_like(keep)
    same = prior.generate([0], seeds=[1], known=known, keep=everything)
    assert torch.equal(same[0], known)
    with pytest.raises(TokenError, match="both the ids and a mask"):
        prior.generate([0], seeds=[1], known=known)
    with pytest.raises(TokenError, match=r"ids to keep must lie in 0 \.\.\. 7, got 3 \.\.\. 8"):
        prior.generate([0], seeds=[1], known=known + 1, keep=keep)


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(prior: Prior) -> None:
    keep = torch.zeros(2, 6, dtype=torch.bool)
    keep[1, :5] = True  # the second has one id to find, and is done after one step
    known = torch.zeros(2, 6, dtype=torch.int64)
    both = prior.generate([0, 1], seeds=[5, 6], known=known, keep=keep)
    alone = [prior.generate([i], seeds=[5 + i], known=known[i], keep=keep[i])[0] for i in range(2)]
    assert torch.equal(both, torch.stack(alone))
    many = prior.generate([0] * 30, seeds=range(30))
    assert len(many.unique(dim=0)) > 20
    with pytest.raises(TokenError, match="2 generators came for 1 rows"):
        prior.generate([0], seeds=[1, 2])
    with pytest.raises(ConfigError, match=r"classes are 0 \.\.\. 2 \(none\), got 3"):
        prior.generate([3], seeds=[1])


def test_without_a_class_guidance_costs_nothing(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = Prior.forward

    def counted(self: Prior, ids: Tensor, classes: Tensor) -> Tensor:
        rows.append(len(ids))
        return forward(self, ids, classes)

    monkeypatch.setattr(Prior, "forward", counted)
    prior.generate([MICRO.null_class], seeds=[0], sampler=PriorSamplerConfig(steps=2))
    prior.generate([0], seeds=[0], sampler=PriorSamplerConfig(steps=2))
    assert rows == [1, 1, 2, 2]
