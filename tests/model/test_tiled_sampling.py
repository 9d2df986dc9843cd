"""Pictures of any size by tiles that are blended at every step: closed forms and equality."""

import itertools

import pytest
import torch
from torch import Tensor

from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.network import with_mask
from flowmo.model.sampler import SamplerStep, euler, guided, noise, time_grid
from flowmo.model.tiled_sampling import blended, sample_tiles
from flowmo.model.tiling import Tiling
from tests.model.checkpoints import CONFIG, made_model

SAMPLER = SamplerConfig(steps=5, guidance=2.0)
TILING = Tiling(width=21, height=13, size=8, overlap=3)


def _linear(x: Tensor, t: float, condition: Tensor) -> Tensor:
    """The same linear field for every tile: its exact sample is known, and knows no tiles."""
    return (0.5 + t) * x


def _sample(tiling: Tiling, condition: Tensor, tiles_at_once: int = 4) -> Tensor:
    null = torch.zeros_like(condition)
    return sample_tiles(
        _linear, condition, null, tiling, SAMPLER, seed=3, tiles_at_once=tiles_at_once
    )


@pytest.mark.parametrize("tiles_at_once", [1, 4, 100])
def test_a_field_that_is_the_same_in_every_tile_leaves_no_trace_of_them(
    tiles_at_once: int,
) -> None:
    condition = torch.zeros(TILING.count, 2, 3)
    picture = _sample(TILING, condition, tiles_at_once=tiles_at_once)
    width, height = TILING.frame
    start = noise([3], (3, height, width))
    factor = 1.0
    times = time_grid(SAMPLER)
    for t, t_next in itertools.pairwise(times):
        factor *= 1 - (t - t_next) * (0.5 + t)
    torch.testing.assert_close(picture, (factor * start[0]).clamp(-1, 1), atol=1e-5, rtol=1e-5)


def test_constant_fields_are_blended_by_the_weights() -> None:
    """dx/dt = c of each tile: the sample is the noise minus the weighted mean of the constants."""
    constants = torch.linspace(-0.2, 0.2, TILING.count)

    def constant(x: Tensor, t: float, condition: Tensor) -> Tensor:
        return torch.zeros_like(x) + condition[:, 0, 0, None, None, None]

    condition = constants[:, None, None].expand(-1, 2, 3)
    sampler = SamplerConfig(steps=3, guidance=1.0)
    picture = sample_tiles(constant, condition, condition, TILING, sampler, seed=0)
    width, height = TILING.frame
    expected = noise([0], (3, height, width))[0]
    for tile, value in zip(TILING, constants, strict=True):
        rows, columns = tile.box
        expected[:, rows, columns] -= value * torch.from_numpy(TILING.weights(tile.index))
    torch.testing.assert_close(picture, expected.clamp(-1, 1), atol=1e-5, rtol=1e-5)


def test_a_small_picture_is_cut_out_of_its_frame() -> None:
    tiling = Tiling(width=5, height=3, size=8)
    condition = torch.zeros(1, 2, 3)
    whole = _sample(Tiling(width=8, height=8, size=8), condition)
    assert torch.equal(_sample(tiling, condition), whole[:, :3, :5])


@pytest.fixture(scope="module")
def model() -> FlowMo:
    return made_model().eval()


@torch.inference_mode()
def test_one_tile_is_sampled_exactly_as_ever(model: FlowMo) -> None:
    size = CONFIG.image_size
    quantized = torch.randn(1, CONFIG.code_length, CONFIG.token_bits).sign()
    sampler = SamplerConfig(steps=4, guidance=1.5, guidance_interval=(0.0, 50.0))
    ever = model.decode(quantized, seeds=[7], sampler=sampler)
    condition = with_mask(quantized)
    tiling = Tiling(width=size, height=size, size=size)
    null = torch.zeros_like(condition)
    tiled = sample_tiles(model.velocity, condition, null, tiling, sampler, seed=7)
    assert torch.equal(tiled, ever[0])


@torch.inference_mode()
def test_without_overlap_every_tile_is_sampled_from_its_part_of_the_noise(model: FlowMo) -> None:
    size = CONFIG.image_size
    tiling = Tiling(width=2 * size, height=size, size=size)
    condition = with_mask(torch.randn(2, CONFIG.code_length, CONFIG.token_bits).sign())
    null = torch.zeros_like(condition)
    sampler = SamplerConfig(steps=3, guidance=1.5, guidance_interval=(0.0, 50.0))
    picture = sample_tiles(model.velocity, condition, null, tiling, sampler, seed=1)
    start = noise([1], (3, size, 2 * size))
    tiles = torch.cat(start.split(size, dim=3))
    field = guided(model.velocity, condition, null, sampler)
    alone = euler(field, tiles, time_grid(sampler)).clamp(-1, 1)
    torch.testing.assert_close(picture, torch.cat(list(alone), dim=2), atol=1e-5, rtol=1e-5)


def test_previews_show_the_whole_picture() -> None:
    seen: list[SamplerStep] = []
    condition = torch.zeros(TILING.count, 2, 3)
    null = torch.zeros_like(condition)
    sample_tiles(_linear, condition, null, TILING, SAMPLER, seed=0, observer=seen.append)
    assert [preview.step for preview in seen] == [1, 2, 3, 4, 5]
    assert all(preview.estimate.shape == (1, 3, 13, 21) for preview in seen)


def test_a_guided_step_is_one_call_with_twice_the_rows() -> None:
    calls: list[int] = []

    def counting(x: Tensor, t: float, condition: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.zeros_like(x)

    condition = torch.zeros(TILING.count, 2, 3)
    sampler = SamplerConfig(steps=1, guidance=1.5, guidance_interval=(0.0, 1e9))
    field = blended(counting, condition, condition, TILING, sampler, tiles_at_once=4)
    field(torch.zeros(1, 3, 13, 21), 0.5)
    assert TILING.count == 8
    assert calls == [8, 8]


def test_only_chosen_tiles_are_computed() -> None:
    """Where no tile that is left out overlaps, one step gives what the whole gives."""
    tiling = Tiling(width=24, height=8, size=8)
    condition = torch.arange(3.0)[:, None, None].expand(-1, 2, 3)

    def by_condition(x: Tensor, t: float, rows: Tensor) -> Tensor:
        return x * (1 + rows[:, 0, 0, None, None, None])

    x = torch.randn(1, 3, 8, 24)
    sampler = SamplerConfig(steps=1, guidance=1.0)
    whole = blended(by_condition, condition, condition, tiling, sampler)(x, 1.0)
    some = condition[1:2]
    part = blended(by_condition, some, some, tiling, sampler, chosen=[1])(x, 1.0)
    assert torch.equal(part[..., 8:16], whole[..., 8:16])
    assert not part[..., :8].any()
    assert not part[..., 16:].any()


def test_conditions_of_another_picture_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 tiles need as many conditions, got 3"):
        _sample(TILING, torch.zeros(3, 2, 3))
