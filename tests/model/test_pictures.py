"""Pictures of any size and their regions through a model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.inference import InferenceModel
from flowmo.model.layout import PictureLayout
from flowmo.model.pictures import Region, decode_picture, tile_batches
from flowmo.model.sampler import SamplerStep
from flowmo.model.tokens import Tokens
from tests.model.checkpoints import CONFIG, made_model

SIZE = CONFIG.image_size
SAMPLER = SamplerConfig(steps=4, guidance=1.5, guidance_interval=(0.0, 50.0))
# Three columns and three rows of tiles, 16 pixels wide.
LAYOUT = PictureLayout(width=38, height=36, tile_size=SIZE, overlap=4)


@pytest.fixture(scope="module")
def model() -> InferenceModel:
    return InferenceModel(made_model())


def tokens_of(layout: PictureLayout, seed: int = 0) -> Tokens:
    shape = (layout.tiles, CONFIG.code_length, CONFIG.ids_per_token)
    ids = np.random.default_rng(seed).integers(0, 2**CONFIG.group_bits, shape, np.int32)
    return Tokens(ids=ids, group_bits=CONFIG.group_bits)


def decode(
    model: InferenceModel,
    layout: PictureLayout,
    *,
    region: Region | None = None,
    sampler: SamplerConfig = SAMPLER,
) -> torch.Tensor:
    tokens = tokens_of(layout)
    # Tile by tile, so that sums are in the same order whatever else is decoded.
    return decode_picture(
        model, tokens, layout, seed=5, sampler=sampler, region=region, tiles_at_once=1
    )


def test_one_tile_is_what_detokenize_gives(model: InferenceModel) -> None:
    layout = PictureLayout(width=SIZE, height=SIZE, tile_size=SIZE)
    tokens = tokens_of(layout)
    expected = model.detokenize([tokens], seeds=[5], sampler=SAMPLER)[0]
    assert torch.equal(decode(model, layout), expected)
    # A smaller picture is cut out of it, a square of another fit is it.
    small = PictureLayout(width=7, height=5, tile_size=SIZE)
    assert torch.equal(decode(model, small), expected[:, :5, :7])
    padded = PictureLayout(width=70, height=50, tile_size=SIZE, fit="pad")
    assert torch.equal(decode(model, padded), expected)


def test_a_picture_has_its_own_size_whatever_is_computed_at_once(model: InferenceModel) -> None:
    one = decode(model, LAYOUT)
    assert one.shape == (3, 36, 38)
    tokens = tokens_of(LAYOUT)
    several = decode_picture(model, tokens, LAYOUT, seed=5, sampler=SAMPLER, tiles_at_once=7)
    torch.testing.assert_close(one, several, atol=1e-4, rtol=1e-4)


def test_a_region_is_its_part_of_the_whole_where_no_other_tile_overlaps(
    model: InferenceModel,
) -> None:
    apart = replace(LAYOUT, width=48, height=32, overlap=0)
    whole = decode(model, apart)
    for region in ((0, 0, 48, 32), (20, 5, 10, 8), (3, 17, 30, 15), (47, 31, 1, 1)):
        x, y, w, h = region
        part = decode(model, apart, region=region)
        assert torch.equal(part, whole[:, y : y + h, x : x + w])


def test_a_region_of_one_step_is_its_part_of_the_whole(model: InferenceModel) -> None:
    once = replace(SAMPLER, steps=1)
    whole = decode(model, LAYOUT, sampler=once)
    for region in ((0, 0, 38, 36), (12, 3, 9, 9), (25, 25, 13, 11)):
        x, y, w, h = region
        part = decode(model, LAYOUT, region=region, sampler=once)
        torch.testing.assert_close(part, whole[:, y : y + h, x : x + w], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("steps", "left", "right"), [(2, 28, 60), (3, 40, 48)])
def test_what_a_region_does_not_know_moves_inwards_by_a_tile_a_step(
    model: InferenceModel, steps: int, left: int, right: int
) -> None:
    # Seven tiles in a row; the region needs all but the outermost ones.
    strip = PictureLayout(width=88, height=SIZE, tile_size=SIZE, overlap=4)
    sampler = SamplerConfig(steps=steps, guidance=1.0)
    whole = decode(model, strip, sampler=sampler)[:, :, 16:72]
    part = decode(model, strip, sampler=sampler, region=(16, 0, 56, SIZE))
    wrong = (part - whole).abs().amax((0, 1)) > 1e-5
    inside = slice(left - 16, right - 16)
    assert not wrong[inside].any()
    assert wrong[: left - 16].any()
    assert wrong[right - 16 :].any()


def test_a_region_computes_the_tiles_that_touch_it_alone(
    model: InferenceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    velocity = model.velocity_modulated

    def counting(
        x: torch.Tensor, modulation: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        rows.append(len(x))
        return velocity(x, modulation, condition)

    monkeypatch.setattr(model, "velocity_modulated", counting)
    once = SamplerConfig(steps=1, guidance=1.0)
    decode(model, LAYOUT, region=(0, 0, 5, 5), sampler=once)
    assert sum(rows) == 1
    rows.clear()
    decode(model, LAYOUT, sampler=once)
    assert sum(rows) == LAYOUT.tiles == 9


def test_regions_that_are_not_inside_are_refused(model: InferenceModel) -> None:
    for region in ((0, 0, 39, 1), (-1, 0, 4, 4), (5, 5, 0, 4), (0, 30, 4, 7)):
        with pytest.raises(ConfigError, match="a region lies inside the picture of 38 x 36"):
            decode(model, LAYOUT, region=region)


def test_previews_are_of_the_whole_picture(model: InferenceModel) -> None:
    seen: list[SamplerStep] = []
    decode_picture(model, tokens_of(LAYOUT), LAYOUT, seed=0, sampler=SAMPLER, observer=seen.append)
    assert [one.step for one in seen] == [1, 2, 3, 4]
    assert {tuple(one.estimate.shape) for one in seen} == {(1, 3, 36, 38)}


def test_tokens_of_another_picture_are_refused(model: InferenceModel) -> None:
    tokens = tokens_of(LAYOUT)
    with pytest.raises(TokenError, match="tokens of 9 tiles came, .* takes 6"):
        decode_picture(model, tokens, replace(LAYOUT, width=20), seed=0)
    with pytest.raises(TokenError, match="9 tiles came where those of one are decoded"):
        model.detokenize([tokens])


def test_tiles_of_a_picture_come_in_their_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (36, 38, 3), np.uint8)
    tiling = LAYOUT.tiling
    batches = list(tile_batches(pixels, tiling, 4))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    tiles = [tile for batch in batches for tile in batch]
    for place, tile in zip(tiling, tiles, strict=True):
        assert np.array_equal(tile, pixels[place.box])
