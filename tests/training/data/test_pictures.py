"""The list of pictures: the same from a folder and a tar, evenly cut, squares of one size."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowmo.training.data.held_out import HELD_OUT_SHA256
from flowmo.training.data.pictures import PictureList
from flowmo.training.errors import DataError


def test_a_tar_has_the_pictures_of_its_folder(pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "pictures.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(pictures, arcname=".")
    folder, packed = PictureList([str(pictures)], 32), PictureList([str(path)], 32)
    assert len(folder) == len(packed) == 10
    for number in range(10):
        square = packed.square(number)
        assert square.shape == (32, 32, 3)
        assert square.dtype == np.uint8
        np.testing.assert_array_equal(folder.square(number), square)
    packed.close()
    np.testing.assert_array_equal(folder.square(0), packed.square(0))  # opens again


def test_a_limit_takes_pictures_evenly(tmp_path: Path) -> None:
    for number in range(9):
        Image.new("RGB", (30, 20), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
    few = PictureList([str(tmp_path)], 16, limit=3)
    assert [int(few.square(number)[0, 0, 0]) for number in range(len(few))] == [0, 80, 160]
    assert len(PictureList([str(tmp_path)], 16, limit=100)) == 9
    described = few.describe()
    assert (described["count"], described["image_size"]) == (3, 16)
    other = PictureList([str(tmp_path)], 16, limit=4).describe()
    assert other["names_sha256"] != described["names_sha256"]
    with pytest.raises(DataError, match="at least 1, got 0"):
        PictureList([str(tmp_path)], 16, limit=0)


def test_without_paths_it_is_the_held_out_photographs() -> None:
    list_ = PictureList([], 24)
    assert [list_.name(number) for number in range(len(list_))] == sorted(HELD_OUT_SHA256)
    assert list_.square(0).shape == (24, 24, 3)
    assert list_.describe()["source"] == "held-out photographs"


def test_turned_and_transparent_pictures_are_read_as_a_viewer_shows_them(tmp_path: Path) -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(wide).save(tmp_path / "a.png", exif=exif)
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "b.png")
    list_ = PictureList([str(tmp_path)], 16)
    turned = list_.square(0)[..., 0]
    assert turned[0].min() > 200  # white above, black below
    assert turned[-1].max() < 50
    assert list_.square(1).min() == 255  # laid over white
