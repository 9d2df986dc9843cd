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
from flowmo.model.tiled_sampling import blended, sample_frame
from flowmo.model.tiling import Tiling
from tests.model.checkpoints import CONFIG, made_model

SAMPLER = SamplerConfig(steps=5, guidance=2.0)
TILING = Tiling(width=21, height=13, size=8, overlap=3)


def _linear(x: Tensor, t: float, condition: Tensor) -> Tensor:
    """The same linear field for every tile: its exact sample is known, and knows no tiles."""
    return (0.5 + t) * x


def _start(tiling: Tiling, seed: int) -> Tensor:
    width, height = tiling.frame
    return noise([seed], (3, height, width))


def _sample(tiling: Tiling, condition: Tensor, tiles_at_once: int = 4) -> Tensor:
    start = _start(tiling, 3)
    return sample_frame(_linear, condition, tiling, SAMPLER, start, tiles_at_once=tiles_at_once)[0]


@pytest.mark.parametrize("tiles_at_once", [1, 4, 100])
def test_a_field_that_is_the_same_in_every_tile_leaves_no_trace_of_them(
    tiles_at_once: int,
) -> None:
    condition = torch.zeros(TILING.count, 2, 3)
    picture = _sample(TILING, condition, tiles_at_once=tiles_at_once)
    start = _start(TILING, 3)
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
    picture = sample_frame(constant, condition, TILING, sampler, _start(TILING, 0))[0]
    expected = _start(TILING, 0)[0]
    for tile, value in zip(TILING, constants, strict=True):
        rows, columns = tile.box
        expected[:, rows, columns] -= value * torch.from_numpy(TILING.weights(tile.index))
    torch.testing.assert_close(picture, expected.clamp(-1, 1), atol=1e-5, rtol=1e-5)


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
    tiled = sample_frame(model.velocity, condition, tiling, sampler, _start(tiling, 7))
    assert torch.equal(tiled, ever)


@torch.inference_mode()
def test_without_overlap_every_tile_is_sampled_from_its_part_of_the_noise(model: FlowMo) -> None:
    size = CONFIG.image_size
    tiling = Tiling(width=2 * size, height=size, size=size)
    condition = with_mask(torch.randn(2, CONFIG.code_length, CONFIG.token_bits).sign())
    null = torch.zeros_like(condition)
    sampler = SamplerConfig(steps=3, guidance=1.5, guidance_interval=(0.0, 50.0))
    picture = sample_frame(model.velocity, condition, tiling, sampler, _start(tiling, 1))[0]
    start = noise([1], (3, size, 2 * size))
    tiles = torch.cat(start.split(size, dim=3))
    field = guided(model.velocity, condition, null, sampler)
    alone = euler(field, tiles, time_grid(sampler)).clamp(-1, 1)
    torch.testing.assert_close(picture, torch.cat(list(alone), dim=2), atol=1e-5, rtol=1e-5)


def test_previews_show_the_whole_picture() -> None:
    seen: list[SamplerStep] = []
    condition = torch.zeros(TILING.count, 2, 3)
    sample_frame(_linear, condition, TILING, SAMPLER, _start(TILING, 0), observer=seen.append)
    assert [preview.step for preview in seen] == [1, 2, 3, 4, 5]
    assert all(preview.estimate.shape == (1, 3, 13, 21) for preview in seen)
    # Each has its own state: a later step does not change what was seen.
    assert len({float(preview.x.sum()) for preview in seen}) == 5
    assert torch.equal(seen[-1].x.clamp(-1, 1), seen[-1].estimate.clamp(-1, 1))


def test_a_guided_step_is_one_call_with_twice_the_rows() -> None:
    calls: list[int] = []

    def counting(x: Tensor, t: float, condition: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.zeros_like(x)

    condition = torch.zeros(TILING.count, 2, 3)
    sampler = SamplerConfig(steps=1, guidance=1.5, guidance_interval=(0.0, 1e9))
    field = blended(counting, condition, TILING, sampler, tiles_at_once=4)
    field(torch.zeros(1, 3, 13, 21), 0.5)
    assert TILING.count == 8
    assert calls == [8, 8]


def test_conditions_of_another_picture_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 tiles need as many conditions, got 3"):
        _sample(TILING, torch.zeros(3, 2, 3))
