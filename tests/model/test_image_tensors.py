"""Tensors that a model would answer with a bad picture, and no error, are refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from flowmo.model.errors import ConfigError
from flowmo.model.image_tensors import RANGE_TOLERANCE, check_images
from flowmo.model.inference import InferenceModel
from tests.model.checkpoints import made_model

SIZE = 16
SQUARE = (SIZE, SIZE)


def images(low: float = -1.0, high: float = 1.0, *, size: int = SIZE) -> Tensor:
    return torch.linspace(low, high, 2 * 3 * size * size).reshape(2, 3, size, size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_a_model_reads_passes(dtype: torch.dtype) -> None:
    check_images(images().to(dtype), SQUARE)
    check_images(images(-1 - RANGE_TOLERANCE, 1 + RANGE_TOLERANCE), SQUARE)
    check_images(torch.ones(1, 3, SIZE, SIZE, dtype=dtype), SQUARE)  # a white page is a picture
    check_images(torch.empty(0, 3, SIZE, SIZE, dtype=dtype), SQUARE)


def with_value(value: float) -> Tensor:
    spoilt = images()
    spoilt[1, 2, 3, 4] = value
    return spoilt


WRONG = {
    "levels": (images(0, 255), r"\[-1, 1\], got 0 to 255; levels .* / 127.5 - 1"),
    "too wide": (images(-1.1, 1), r"got -1.1 to 1; rescale them, or clip"),
    "nan": (with_value(float("nan")), "hold 1 numbers that are infinite or undefined"),
    "infinite": (with_value(float("-inf")), "hold 1 numbers that are infinite or undefined"),
    "bytes": (images(0, 255).to(torch.uint8), "torch.uint8; .* / 127.5 - 1"),
    "other size": (images(size=2 * SIZE), "reads 16 x 16 pixels, got 32 x 32; .*flowmo.load"),
    "not square": (images()[:, :, : SIZE // 2], "reads 16 x 16 pixels, got 8 x 16"),
    "one picture": (images()[0], r"got \[3, 16, 16\]; add the batch by images\[None\]"),
    "channels last": (images().permute(0, 2, 3, 1), "move channels to the front"),
    "array": (np.zeros((1, 3, SIZE, SIZE), np.float32), "got ndarray; flowmo.load"),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_refused_with_how_to_mend_it(name: str) -> None:
    came, words = WRONG[name]
    with pytest.raises(ConfigError, match=words):
        check_images(came, SQUARE)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WRONG)
def test_both_forms_of_a_model_check(name: str) -> None:
    came, words = WRONG[name]
    network = made_model()
    model = InferenceModel(network)
    for entry in (model.tokenize, model.encode, network.reconstruct):
        with pytest.raises(ConfigError, match=words):
            entry(came)  # type: ignore[arg-type]


def test_levels_and_ranges_that_are_mended_as_told_pass() -> None:
    for name in ("levels", "bytes"):
        came = WRONG[name][0]
        assert isinstance(came, Tensor)
        check_images(came / 127.5 - 1, SQUARE)
    check_images(images(-1.1, 1).clamp(-1, 1), SQUARE)
