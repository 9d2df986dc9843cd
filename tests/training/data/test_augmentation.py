"""Colour jitter, and pictures that are seen as often as they are large."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowmo.model.errors import ConfigError
from flowmo.training.config import DataConfig
from flowmo.training.data.augmentation import MOST_REPEATS, jitter_colours, repeats
from flowmo.training.data.batches import CropDataset, decode_all
from flowmo.training.data.index import ImageIndex


def _crop() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 190, (16, 16, 3), dtype=np.uint8)


def test_jitter_moves_colours_and_never_the_picture() -> None:
    crop = _crop()
    changed = jitter_colours(crop, 0.3, np.random.default_rng(1))
    assert changed.dtype == np.uint8
    assert changed.shape == crop.shape
    assert not np.array_equal(changed, crop)
    for channel in range(3):
        pair = np.corrcoef(crop[..., channel].ravel(), changed[..., channel].ravel())
        assert pair[0, 1] > 0.9


def test_jitter_of_nothing_is_nothing_and_its_size_grows_with_the_strength() -> None:
    crop = _crop()
    assert np.array_equal(jitter_colours(crop, 0.0, np.random.default_rng(1)), crop)

    def moved(strength: float) -> float:
        changes = [
            jitter_colours(crop, strength, np.random.default_rng(seed)).astype(float) - crop
            for seed in range(20)
        ]
        return float(np.abs(changes).mean())

    assert 0 < moved(0.1) < moved(0.4)


def test_grey_stays_near_grey() -> None:
    grey = np.repeat(_crop()[..., :1], 3, axis=2)
    changed = jitter_colours(grey, 0.2, np.random.default_rng(3)).astype(int)
    assert np.ptp(changed, axis=2).max() <= 0.11 * 255


def test_repeats_are_the_area_in_crops() -> None:
    assert repeats(10, 10, 32) == 1
    assert repeats(64, 96, 32) == 6
    assert repeats(10_000, 10_000, 32) == MOST_REPEATS


def _folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, (height, width) in {"a": (32, 32), "b": (64, 128)}.items():
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def test_a_large_picture_is_in_an_epoch_more_often_and_each_crop_is_another(
    tmp_path: Path,
) -> None:
    config = DataConfig(cache="memory", repeat_by_area=True, min_crop_scale=0.5)
    index = ImageIndex([str(_folder(tmp_path))])
    decoded = decode_all(index, size=32, config=config)
    dataset = CropDataset(index, size=32, config=config, seed=0, decoded=decoded)
    assert len(dataset) == 1 + 8
    for epoch in range(2):
        crops = [dataset[epoch * 9 + place].image.numpy().tobytes() for place in range(9)]
        assert len(set(crops)) == 9
    # The same position gives the same crop, whatever was asked for in between.
    assert dataset[3].image.equal(dataset[3].image)
    seen = Counter(dataset._index_at(1, place) for place in range(9))
    assert sorted(seen.values()) == [1, 8]


def test_without_it_every_picture_is_once_in_an_epoch(tmp_path: Path) -> None:
    index = ImageIndex([str(_folder(tmp_path))])
    dataset = CropDataset(index, size=32, config=DataConfig(), seed=0)
    assert len(dataset) == 2


def test_jitter_reaches_random_crops_only(tmp_path: Path) -> None:
    index = ImageIndex([str(_folder(tmp_path))])

    def crops(**options: object) -> list[bytes]:
        config = DataConfig(**options)  # type: ignore[arg-type]
        dataset = CropDataset(index, size=32, config=config, seed=0)
        return [dataset[i].image.numpy().tobytes() for i in range(2)]

    assert crops() != crops(colour_jitter=0.3)
    assert crops(crop="centre") == crops(crop="centre", colour_jitter=0.3)


@pytest.mark.parametrize("wrong", [{"colour_jitter": -0.1}, {"repeat_by_area": True}])
def test_options_that_do_not_fit_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DataConfig(**wrong)  # type: ignore[arg-type]
