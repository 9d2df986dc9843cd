"""Pictures of any size and shape, there and back, through the public API."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flowmo
from flowmo.imaging.fit import fit_back, fit_image, plan_fit
from flowmo.imaging.reading import from_picture
from flowmo.model.errors import ConfigError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.tokenizer import Tokenizer
from tests.service.fixtures import CONFIG, save_model
from tests.service.pictures import as_file, gradient

SIZE = CONFIG.image_size


@pytest.fixture(scope="module")
def tok(checkpoint: Path) -> Tokenizer:
    return flowmo.load(str(checkpoint), device="cpu")


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (SIZE, SIZE), (192, 32), (7, 90), (45, 33), (SIZE + 1, SIZE)],
)
def test_any_size_and_shape_comes_back_in_its_own(
    tok: Tokenizer, width: int, height: int, tmp_path: Path
) -> None:
    tokens = tok.encode(gradient(width, height))
    assert (tokens.width, tokens.height, tokens.fit) == (width, height, "native")
    assert tokens.ids.shape == (tokens.layout.tiles, CONFIG.code_length, CONFIG.ids_per_token)
    assert tokens.payload_bytes == tokens.layout.tiles * CONFIG.payload_bytes
    tokens.save(tmp_path / "photo.flowmo")
    picture = tok.decode(tmp_path / "photo.flowmo", steps=1)
    assert picture.size == (width, height)
    assert np.array_equal(np.asarray(picture), tok.decode(tokens, steps=1, output="array"))


def test_a_turned_photograph_is_upright(tok: Tokenizer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    portrait = as_file(Image.fromarray(gradient(96, 40)), "JPEG", exif=exif)
    tokens = tok.encode(portrait)
    assert (tokens.width, tokens.height) == (40, 96)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_square_made_of_a_picture_comes_back_in_its_shape(tok: Tokenizer, fit: str) -> None:
    tokens = tok.encode(gradient(96, 40), fit=fit)  # type: ignore[call-overload]
    assert tokens.tile_count == 1
    assert tok.decode(tokens, steps=1).size == (96, 40)
    again = tok.decode(ImageTokens.from_bytes(tokens.to_bytes()), steps=1)
    assert again.size == (96, 40)
    assert tok.decode(tok.encode(gradient(96, 40), fit="crop"), steps=1).size == (SIZE, SIZE)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(96, 40), (40, 96), (20, 11)])
def test_fitting_back_undoes_fitting(fit: str, width: int, height: int) -> None:
    pixels = gradient(width, height)
    fitted = fit_image(from_picture(Image.fromarray(pixels)), 64, fit)  # type: ignore[arg-type]
    back = fit_back(fitted.pixels, fitted.report)
    assert back.shape == pixels.shape
    # Smooth, so that little is lost; and no white of the padding shows.
    assert np.abs(back.astype(int) - pixels).mean() < 4
    report = plan_fit(width, height, 64, "crop")
    assert fit_back(fitted.pixels, report) is fitted.pixels


def test_pictures_of_many_sizes_share_batches_and_come_in_their_order(tok: Tokenizer) -> None:
    pictures = [gradient(45, 33), gradient(SIZE, SIZE), gradient(9, 9), 255 - gradient(70, 20)]
    several = tok.encode(pictures, batch_size=3)
    assert [(one.width, one.height) for one in several] == [(45, 33), (32, 32), (9, 9), (70, 20)]
    for one, alone in zip(several, [tok.encode(picture) for picture in pictures], strict=True):
        assert np.mean(one.ids != alone.ids) <= 0.05  # sums in another order may turn a bit
    decoded = tok.decode(several, steps=1, seeds=[3, 3, 3, 3])
    assert [picture.size for picture in decoded] == [(45, 33), (32, 32), (9, 9), (70, 20)]
    for tokens, picture in zip(several, decoded, strict=True):
        by_itself = tok.decode(tokens, steps=1, seeds=3)
        difference = np.abs(np.asarray(picture).astype(int) - np.asarray(by_itself))
        assert difference.max() <= 1
    arrays = tok.decode(several, steps=1, output="array")
    assert [array.shape for array in arrays] == [(33, 45, 3), (32, 32, 3), (9, 9, 3), (20, 70, 3)]


def test_overlap_is_chosen_and_remembered(tok: Tokenizer) -> None:
    apart = tok.encode(gradient(3 * SIZE, SIZE), overlap=0)
    assert (apart.tile_count, apart.overlap) == (3, 0)
    half = tok.encode(gradient(3 * SIZE, SIZE), overlap=0.5)
    assert (half.tile_count, half.overlap) == (5, SIZE // 2)
    assert ImageTokens.from_bytes(half.to_bytes()).layout == half.layout
    with pytest.raises(ConfigError, match=r"overlap by a share of 0 to 0.5, got 0.6"):
        tok.encode(gradient(), overlap=0.6)


def test_reconstruct_of_a_picture_is_encode_and_decode(tok: Tokenizer, tmp_path: Path) -> None:
    picture = gradient(70, 45)
    expected = tok.decode(tok.encode(picture), steps=2, output="tensor", seeds=4)
    came = tok.reconstruct(picture, steps=2, output="tensor", seeds=4)
    assert came.shape == (3, 45, 70)
    assert torch.equal(came, expected)
    continuous = flowmo.load(save_model(tmp_path, seed=3, quantizer="gaussian"), device="cpu")
    assert continuous.reconstruct(picture, steps=1).size == (70, 45)


@pytest.mark.parametrize(
    ("fit", "overlap", "region"),
    [
        ("native", 0.0, (40, 3, 20, 10)),
        ("pad", 0.25, (5, 5, 60, 20)),
        ("crop", 0.25, (1, 2, 30, 20)),
    ],
)
def test_a_region_is_a_part_of_the_picture(
    tok: Tokenizer, fit: str, overlap: float, region: tuple[int, int, int, int]
) -> None:
    tokens = tok.encode(gradient(96, 64), fit=fit, overlap=overlap)  # type: ignore[call-overload]
    whole = tok.decode(tokens, steps=2, output="array", batch_size=1)
    x, y, w, h = region
    part = tok.decode(tokens, steps=2, output="array", region=region, batch_size=1)
    assert np.array_equal(part, whole[y : y + h, x : x + w])
    with pytest.raises(ConfigError, match="a region lies inside the picture of"):
        tok.decode(tokens, region=(0, 0, 97, 40))


def test_ids_of_several_tiles_need_their_picture(tok: Tokenizer) -> None:
    tokens = tok.encode(gradient(80, 40))
    with pytest.raises(TokenError, match="without the size of their picture"):
        tok.decode(tokens.ids)
    given = ImageTokens(
        ids=tokens.ids,
        group_bits=tokens.group_bits,
        fingerprint=tok.fingerprint,
        width=80,
        height=40,
        tile_size=SIZE,
        overlap=tokens.overlap,
    )
    assert tok.decode(given, steps=1).size == (80, 40)
