"""What of the one-step estimate is compared, and how times are weighted."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowmo.model.flowmo import FlowMo
from flowmo.training.config import DataConfig, LossWeights, PerceptualConfig, TrainConfig
from flowmo.training.loop.generators import Generators
from flowmo.training.tasks.flow import GENERATORS, Draws, draw
from flowmo.training.tasks.mup import initialize
from flowmo.training.tasks.pretrain import stage_1a

Run = Callable[..., TrainConfig]


class Seen:
    """A perceptual network that remembers what it was shown."""

    def __call__(self, a: Tensor, b: Tensor, /) -> Tensor:
        self.estimate, self.image = a, b
        return (a - b).square().mean()


def _step(config: TrainConfig, draws: Draws | None = None) -> tuple[Seen, dict[str, float]]:
    model = FlowMo(config.model)
    initialize(model, config.model, config.optimizer, seed=0)
    size = config.model.image_size
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(config.batch_size, 3, size, size, generator=generator) * 2 - 1
    if draws is None:
        draws = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    seen = Seen()
    objective = stage_1a(model, images, draws, config.losses, seen, config.perceptual)
    return seen, {term.name: term.value.item() for term in objective.terms}


def _draws(config: TrainConfig, t: list[float]) -> Draws:
    drawn = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    return drawn._replace(t=torch.tensor(t))


def test_only_times_below_the_threshold_are_compared(run_config: Run) -> None:
    config = run_config(perceptual=PerceptualConfig(network="vgg-edge", below=0.5))
    seen, terms = _step(config, _draws(config, [0.2, 0.5, 0.51, 1.0]))
    different = (seen.estimate - seen.image).abs().flatten(1).amax(1) > 0
    assert different.tolist() == [True, True, False, False]
    assert terms["perceptual"] > 0
    everything, _ = _step(run_config(), _draws(config, [0.2, 0.5, 0.51, 1.0]))
    assert torch.equal(everything.estimate[:2], seen.estimate[:2])
    assert ((everything.estimate - everything.image).abs().flatten(1).amax(1) > 0).all()


def test_a_window_is_the_same_square_of_both_at_many_places(run_config: Run) -> None:
    config = run_config(perceptual=PerceptualConfig(network="vgg-edge", window=16))
    whole, _ = _step(run_config())
    corners = set()
    generators = Generators.seeded(0, torch.device("cpu"), GENERATORS)
    for _ in range(90):
        drawn = draw(config, generators)
        assert drawn.place is not None
        seen, _ = _step(config, drawn)
        assert seen.image.shape == seen.estimate.shape == (4, 3, 16, 16)
        (corner,) = [
            (y, x)
            for y in (0, 8, 16)
            for x in (0, 8, 16)
            if torch.equal(whole.image[..., y : y + 16, x : x + 16], seen.image)
        ]
        corners.add(corner)
    assert len(corners) == 9


def test_a_run_without_a_window_draws_what_it_drew(run_config: Run) -> None:
    plain = draw(run_config(), Generators.seeded(0, torch.device("cpu"), GENERATORS))
    assert plain.place is None
    config = run_config(perceptual=PerceptualConfig(network="vgg-edge", window=16))
    windowed = draw(config, Generators.seeded(0, torch.device("cpu"), GENERATORS))
    assert torch.equal(plain.keep, windowed.keep)
    assert torch.equal(plain.noise, windowed.noise)


def test_small_times_can_weigh_as_errors_of_the_image(run_config: Run) -> None:
    plain = run_config()
    times = [0.1, 0.25, 0.5, 1.0]
    _, before = _step(plain, _draws(plain, times))
    config = replace(plain, losses=LossWeights(flow_full_from=0.5))
    seen, after = _step(config, _draws(config, times))
    t = torch.tensor(times)[:, None, None, None]
    # The estimate's error is t times the velocity's.
    weighted = (seen.estimate - seen.image) / t * (t / 0.5).clamp(max=1)
    assert after["flow"] == pytest.approx(weighted.square().mean().item(), rel=1e-4)
    assert after["flow"] < before["flow"]


def test_a_run_takes_the_options(run_config: Run) -> None:
    config = run_config(
        losses=LossWeights(flow_full_from=0.5),
        perceptual=PerceptualConfig(network="vgg-edge", weights="random", blocks=2, window=16),
        data=DataConfig(paths=("x",), cache="memory", repeat_by_area=True, colour_jitter=0.1),
    )
    assert TrainConfig.from_dict(config.to_dict()) == config
