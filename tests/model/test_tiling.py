"""Geometry of tiles: closed cases and properties that hold for every picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.model.errors import ConfigError
from flowmo.model.tiling import Tiling, frame_pixels, overlap_pixels

SIZES = st.integers(2, 16)


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    size = draw(SIZES)
    return Tiling(
        width=draw(st.integers(1, 40)),
        height=draw(st.integers(1, 40)),
        size=size,
        overlap=draw(st.integers(0, size // 2)),
    )


@pytest.mark.parametrize(
    ("width", "height", "overlap", "lefts", "tops"),
    [
        (8, 8, 0, (0,), (0,)),
        (8, 8, 4, (0,), (0,)),
        (3, 1, 2, (0,), (0,)),  # smaller than a tile: padded to one
        (16, 8, 0, (0, 8), (0,)),
        (9, 20, 0, (0, 1), (0, 6, 12)),
        (14, 8, 2, (0, 6), (0,)),
        (15, 8, 2, (0, 4, 7), (0,)),
    ],
)
def test_closed_cases(
    width: int, height: int, overlap: int, lefts: tuple[int, ...], tops: tuple[int, ...]
) -> None:
    tiling = Tiling(width=width, height=height, size=8, overlap=overlap)
    assert (tiling.lefts, tiling.tops) == (lefts, tops)
    assert tiling.count == len(tiling) == len(lefts) * len(tops)


@given(tilings())
def test_every_pixel_is_covered_and_no_tile_leaves_the_frame(tiling: Tiling) -> None:
    width, height = tiling.frame
    assert (width, height) == (max(tiling.width, tiling.size), max(tiling.height, tiling.size))
    covered = np.zeros((height, width), int)
    for tile in tiling:
        assert 0 <= tile.left <= width - tiling.size
        assert 0 <= tile.top <= height - tiling.size
        covered[tile.box] += 1
    assert covered.min() >= 1


@given(tilings())
def test_weights_add_up_to_one_everywhere(tiling: Tiling) -> None:
    width, height = tiling.frame
    total = np.zeros((height, width))
    for tile in tiling:
        weights = tiling.weights(tile.index)
        assert weights.min() > 0
        total[tile.box] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(tilings())
def test_neighbours_share_what_was_asked_for_and_one_tile_fewer_would_not_do(
    tiling: Tiling,
) -> None:
    for starts, length in ((tiling.lefts, tiling.frame[0]), (tiling.tops, tiling.frame[1])):
        gaps = np.diff(starts)
        assert all(0 < gap <= tiling.size - tiling.overlap for gap in gaps)
        fewer = len(starts) - 1
        reach = tiling.size + (fewer - 1) * (tiling.size - tiling.overlap)
        assert fewer == 0 or reach < length


@given(tilings())
def test_a_fall_is_smooth_and_symmetric(tiling: Tiling) -> None:
    mirrored = [tiling.frame[0] - tiling.size - left for left in reversed(tiling.lefts)]
    # Rounding may put a tile one pixel beside its mirror image.
    assert all(abs(a - b) <= 1 for a, b in zip(tiling.lefts, mirrored, strict=True))


def test_the_fall_is_a_raised_cosine() -> None:
    tiling = Tiling(width=12, height=8, size=8, overlap=4)
    first = tiling.weights(0)[3]
    shares = 0.5 - 0.5 * np.cos(np.pi * (np.arange(4) + 0.5) / 4)
    np.testing.assert_allclose(first, [1, 1, 1, 1, *shares[::-1]], atol=1e-7)


@given(tilings(), st.data())
def test_the_tiles_of_a_region_are_those_that_share_a_pixel_with_it(
    tiling: Tiling, data: st.DataObject
) -> None:
    left = data.draw(st.integers(0, tiling.width - 1))
    top = data.draw(st.integers(0, tiling.height - 1))
    width = data.draw(st.integers(1, tiling.width - left))
    height = data.draw(st.integers(1, tiling.height - top))
    region = np.zeros(tiling.frame[::-1], bool)
    region[top : top + height, left : left + width] = True
    expected = tuple(tile.index for tile in tiling if region[tile.box].any())
    assert tiling.touching(left, top, width, height) == expected


@pytest.mark.parametrize("region", [(0, 0, 0, 1), (-1, 0, 1, 1), (15, 0, 2, 1), (0, 9, 1, 1)])
def test_a_region_outside_is_refused(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match="inside the picture of 16 x 9 pixels"):
        Tiling(width=16, height=9, size=8).touching(*region)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 8, 0), "at least one pixel"),
        ((9, 9, 8, 5), "overlap by 0 to 4 pixels, got 5"),
        ((9, 9, 8, -1), "got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(values: tuple[int, int, int, int], message: str) -> None:
    width, height, size, overlap = values
    with pytest.raises(ConfigError, match=message):
        Tiling(width=width, height=height, size=size, overlap=overlap)


def test_a_tile_that_is_not_there() -> None:
    with pytest.raises(IndexError, match="tile 2 of 2"):
        Tiling(width=16, height=8, size=8)[2]


def test_shares_of_a_tile() -> None:
    assert [overlap_pixels(128, share) for share in (0, 0.125, 0.5)] == [0, 16, 64]
    with pytest.raises(ConfigError, match=r"0 to 0\.5"):
        overlap_pixels(128, 0.6)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 8), (20, 2), (9, 9)])
def test_a_small_picture_is_continued_by_its_mirror_image(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    frame = frame_pixels(pixels, Tiling(width=width, height=height, size=8))
    assert frame.shape == (max(height, 8), max(width, 8), 3)
    np.testing.assert_array_equal(frame[:height, :width], pixels)
    if 1 < width < 8:
        np.testing.assert_array_equal(frame[:height, width], pixels[:, width - 2])
