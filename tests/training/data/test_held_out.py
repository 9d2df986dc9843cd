import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowmo.photographs import PHOTOGRAPHS, photograph_paths
from flowmo.training.data.held_out import HELD_OUT_SHA256, centred_square, held_out_photographs
from flowmo.training.errors import DataError


def test_they_are_the_photographs_that_come_with_the_package() -> None:
    assert list(HELD_OUT_SHA256) == sorted(PHOTOGRAPHS)
    for path, photograph in zip(photograph_paths(), held_out_photographs().values(), strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(photograph), np.asarray(image.convert("RGB")))


def test_squares_are_cut_from_the_centre() -> None:
    # chelsea.png is 451 x 300: at 300 pixels its square is cut out, not resampled.
    chelsea = held_out_photographs()["chelsea.png"]
    np.testing.assert_array_equal(centred_square(chelsea, 300), np.asarray(chelsea)[:, 75:375])
    assert centred_square(chelsea, 64).shape == (64, 64, 3)


def test_a_changed_or_missing_photograph_is_an_error(tmp_path: Path) -> None:
    for path in photograph_paths():
        shutil.copy(path, tmp_path)
    assert len(held_out_photographs(tmp_path)) == 6
    (tmp_path / "coffee.png").write_bytes((tmp_path / "rocket.jpg").read_bytes())
    with pytest.raises(DataError, match=r"coffee\.png has SHA-256 c2dd0de7"):
        held_out_photographs(tmp_path)
    (tmp_path / "coffee.png").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        held_out_photographs(tmp_path)
