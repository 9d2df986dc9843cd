import shutil
from pathlib import Path

import numpy as np
import pytest

from flowmo.imaging.fit import read_square
from flowmo.imaging.reading import read_image
from flowmo.photographs import PHOTOGRAPHS, photograph_paths
from flowmo.training.data.held_out import HELD_OUT_SHA256, held_out_photographs, held_out_squares
from flowmo.training.errors import DataError


def test_they_are_the_photographs_that_come_with_the_package() -> None:
    assert list(HELD_OUT_SHA256) == sorted(PHOTOGRAPHS)
    for path, photograph in zip(photograph_paths(), held_out_photographs().values(), strict=True):
        assert photograph == path.read_bytes()


def test_squares_are_cut_from_the_centre() -> None:
    # chelsea.png is 451 x 300: at 300 pixels its square is cut out, not resampled.
    chelsea = held_out_photographs()["chelsea.png"]
    whole = read_image(chelsea).pixels
    np.testing.assert_array_equal(held_out_squares(300)["chelsea.png"], whole[:, 75:375])
    np.testing.assert_array_equal(held_out_squares(64)["chelsea.png"], read_square(chelsea, 64))


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
