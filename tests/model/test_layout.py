"""How a picture lies in its tiles, and which pictures are refused."""

import pytest

from flowmo.model.errors import ConfigError, PictureTooLargeError
from flowmo.model.layout import PictureLayout


def test_a_picture_of_any_shape_has_its_own_tiles_and_size() -> None:
    panorama = PictureLayout(width=600, height=100, tile_size=128, overlap=32)
    assert panorama.tiles == 6
    assert panorama.output == (600, 100)
    assert panorama.tiling.frame == (600, 128)


@pytest.mark.parametrize(
    ("fit", "output"),
    [("crop", (128, 128)), ("pad", (600, 100)), ("stretch", (600, 100))],
)
def test_a_square_made_of_a_picture_is_one_tile(fit: str, output: tuple[int, int]) -> None:
    layout = PictureLayout(width=600, height=100, tile_size=128, overlap=32, fit=fit)
    assert layout.tiles == 1
    assert layout.overlap == 0
    assert layout.output == output
    assert layout.tiling.frame == (128, 128)


def test_layouts_that_mean_the_same_are_equal() -> None:
    small = PictureLayout(width=5, height=128, tile_size=128, overlap=32)
    assert small == PictureLayout(width=5, height=128, tile_size=128)
    square = PictureLayout(width=128, height=128, tile_size=128)
    for fit in ("crop", "pad", "stretch"):
        assert PictureLayout(width=128, height=128, tile_size=128, fit=fit) == square
        assert PictureLayout(width=5, height=128, tile_size=128, fit=fit) != small


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "width must be a whole number of pixels from 1 to 65535, got 0"),
        ({"height": 65_536}, "height must be"),
        ({"tile_size": True}, "tile_size must be .* got True"),
        ({"overlap": 65}, "overlap by 0 to 64 pixels, got 65"),
        ({"overlap": -1}, "got -1"),
        ({"fit": "cover"}, "fit must be one of native, crop, pad, stretch, got 'cover'"),
    ],
)
def test_layouts_that_cannot_be(wrong: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"width": 9, "height": 9, "tile_size": 128, "overlap": 0}
    with pytest.raises(ConfigError, match=message):
        PictureLayout(**{**given, **wrong})  # type: ignore[arg-type]


def test_limits_name_themselves() -> None:
    layout = PictureLayout(width=1000, height=500, tile_size=128, overlap=0)
    layout.check_limits(max_pixels=500_000, max_tiles=32)
    layout.check_limits(max_pixels=None, max_tiles=None)
    with pytest.raises(PictureTooLargeError, match="1000 x 500 = 500,000 pixels, at most 499,999"):
        layout.check_limits(max_pixels=499_999, max_tiles=None)
    with pytest.raises(PictureTooLargeError, match="takes 32 tiles of 128 x 128, at most 31"):
        layout.check_limits(max_pixels=None, max_tiles=31)
