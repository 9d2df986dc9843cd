import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowmo.imaging.fit import Fit, fit_image, plan_fit
from flowmo.imaging.reading import DecodedImage, Pixels, from_picture, read_image
from tests.service.pictures import as_file, gradient


def decoded(pixels: Pixels) -> DecodedImage:
    return from_picture(Image.fromarray(pixels))


def test_crop_takes_the_centred_square() -> None:
    report = plan_fit(100, 61, 32, "crop")
    assert report.source == (19, 0, 80, 61)
    assert report.target == (0, 0, 32, 32)


def test_pad_keeps_the_whole_picture() -> None:
    report = plan_fit(100, 50, 32, "pad")
    assert report.source == (0, 0, 100, 50)
    assert report.target == (0, 8, 32, 24)


def test_stretch_uses_everything() -> None:
    report = plan_fit(100, 50, 32, "stretch")
    assert (report.source, report.target) == ((0, 0, 100, 50), (0, 0, 32, 32))


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(["crop", "pad", "stretch"]))
def test_boxes_lie_inside_and_are_not_empty(width: int, height: int, fit: Fit) -> None:
    report = plan_fit(width, height, 32, fit)
    left, top, right, bottom = report.source
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    left, top, right, bottom = report.target
    assert 0 <= left < right <= 32
    assert 0 <= top < bottom <= 32
    if fit == "crop":
        assert right - left == bottom - top
        x0, y0, x1, y1 = report.source
        assert abs(x0 - (width - x1)) <= 1
        assert abs(y0 - (height - y1)) <= 1


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_picture_of_the_right_size_is_not_touched(fit: Fit) -> None:
    pixels = gradient(32, 32)
    assert np.array_equal(fit_image(decoded(pixels), 32, fit).pixels, pixels)


def test_a_crop_without_resizing_is_exact() -> None:
    pixels = gradient(48, 32)
    assert np.array_equal(fit_image(decoded(pixels), 32, "crop").pixels, pixels[:, 8:40])


def test_padding_is_white_and_only_there() -> None:
    pixels = np.zeros((50, 100, 3), np.uint8)
    result = fit_image(decoded(pixels), 32, "pad").pixels
    assert (result[:8] == 255).all()
    assert (result[24:] == 255).all()
    assert (result[8:24] == 0).all()


def test_one_pixel_becomes_a_square() -> None:
    pixels = np.full((1, 1, 3), 77, np.uint8)
    for fit in ("crop", "pad", "stretch"):
        assert (fit_image(decoded(pixels), 32, fit).pixels == 77).all()


def test_a_thin_line_is_padded_to_one_pixel_at_least() -> None:
    pixels = np.zeros((1, 4000, 3), np.uint8)
    result = fit_image(decoded(pixels), 32, "pad")
    assert result.report.target == (0, 15, 32, 16)
    assert (result.pixels[15] == 0).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_reduced_decoding_gives_the_same_picture(fit: Fit) -> None:
    data = as_file(gradient(1003, 701), "JPEG", quality=95)
    full = fit_image(read_image(data), 32, fit)
    reduced = fit_image(read_image(data, side=32), 32, fit)
    assert full.report == reduced.report
    assert np.abs(full.pixels.astype(int) - reduced.pixels).max() <= 4
