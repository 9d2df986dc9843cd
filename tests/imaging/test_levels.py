import math

import numpy as np
import pytest
import torch

from flowmo.imaging import levels, tensors
from flowmo.imaging.quality import IDENTICAL_PSNR, psnr

ALL = np.arange(256, dtype=np.uint8)


def test_levels_come_back_exactly() -> None:
    values = levels.to_model_range(ALL)
    assert values.dtype == np.float32
    assert (values[0], values[255]) == (-1.0, 1.0)
    assert np.array_equal(levels.to_levels(values), ALL)


def test_arrays_and_tensors_agree() -> None:
    values = levels.to_model_range(ALL)
    assert torch.equal(tensors.to_model_range(torch.from_numpy(ALL.copy())), torch.tensor(values))
    between = np.random.default_rng(0).uniform(-1.5, 1.5, 10_000).astype(np.float32)
    expected = levels.to_levels(between)
    assert np.array_equal(tensors.to_levels(torch.from_numpy(between)).numpy(), expected)
    assert expected.min() == 0
    assert expected.max() == 255


def test_half_precision_is_rounded_as_the_same_value_in_single() -> None:
    values = torch.linspace(-1.1, 1.1, 1000, dtype=torch.bfloat16)
    assert torch.equal(tensors.to_levels(values), tensors.to_levels(values.float()))


def test_pictures_become_images_and_come_back() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    pictures.flags.writeable = False  # as Pillow's are
    images = tensors.to_images(list(pictures))
    assert images.shape == (3, 3, 8, 8)
    assert images.is_contiguous()
    assert images[1, 2, 3, 4] == np.float32(pictures[1, 3, 4, 2]) / np.float32(127.5) - 1
    assert np.array_equal(tensors.to_pixels(images), pictures)
    assert torch.equal(tensors.to_images(pictures), images)


def test_psnr_of_equal_pictures_is_what_the_caller_says() -> None:
    assert psnr(ALL, ALL) == math.inf
    assert psnr(ALL, ALL, identical=IDENTICAL_PSNR) == 120.0
    grey = np.full((256, 256, 3), 100, np.uint8)
    nearly = grey.copy()
    nearly[0, 0, 0] += 1
    assert psnr(grey, grey + np.uint8(10)) == pytest.approx(28.1308, abs=1e-3)
    assert 100 < psnr(grey, nearly) < IDENTICAL_PSNR


def test_psnr_of_images_is_that_of_their_files() -> None:
    pictures = np.random.default_rng(0).integers(20, 230, (2, 8, 8, 3)).astype(np.uint8)
    other = pictures + np.array([0, 3], np.uint8)[:, None, None, None]
    found = tensors.psnr_of_images(tensors.to_images(pictures), tensors.to_images(other) + 1e-3)
    assert found == [IDENTICAL_PSNR, psnr(pictures[1], other[1])]
