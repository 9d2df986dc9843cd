"""Tars in tars, and patterns, on this machine."""

import gzip
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowmo.training.data.index import ImageIndex
from flowmo.training.data.sources.range_file import Blocks, RangeFile
from flowmo.training.errors import DataError


def _contents(index: ImageIndex) -> list[bytes | None]:
    return index.read_many(range(len(index)))


def test_a_tar_of_tars_is_its_unpacked_folder(nested_tar: tuple[Path, Path]) -> None:
    folder, tar = nested_tar
    one, other = ImageIndex([str(folder)]), ImageIndex([str(tar)])
    assert len(other) == 10
    assert _contents(one) == _contents(other)
    assert [one.name(i).removeprefix(str(folder)) for i in range(10)] == [
        other.name(i).removeprefix(str(tar)) for i in range(10)
    ]
    assert other.name(0) == f"{tar}:n00/n00_0.JPEG"
    other.close()


def test_what_is_no_image_in_a_tar_is_left_out(
    pictures: Path, tmp_path: Path, make_tar: Callable[..., Path]
) -> None:
    tar = make_tar(pictures, tmp_path / "web.tar", beside=True)
    index = ImageIndex([str(tar)])
    assert _contents(index) == _contents(ImageIndex([str(pictures)]))
    index.close()


def test_a_compressed_tar_in_a_tar_is_refused(
    pictures: Path, tmp_path: Path, make_tar: Callable[..., Path]
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "n01.tar.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(DataError, match="outer.tar:n01.tar.gz is a compressed tar.*unpack it"):
        ImageIndex([str(make_tar(inner, tmp_path / "outer.tar"))])


def test_a_damaged_tar_in_a_tar_is_named(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "n01.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="outer.tar:n01/ cannot be read as an uncompressed tar"):
        ImageIndex([str(make_tar(inner, tmp_path / "outer.tar"))])


def test_braces_name_tars_in_their_order_and_every_one_must_be_there(
    pictures: Path, tmp_path: Path, make_tar: Callable[..., Path]
) -> None:
    for name in ("t-2.tar", "t-10.tar"):
        make_tar(pictures / "more", tmp_path / name)
    index = ImageIndex([f"{tmp_path}/t-{{10,2}}.tar"])
    assert [index.name(i).rpartition("/")[2] for i in range(2)] == [
        "t-10.tar:03.png",
        "t-2.tar:03.png",
    ]
    with pytest.raises(DataError, match="t-9.tar. is no folder, image, tar"):
        ImageIndex([f"{tmp_path}/t-{{9..10}}.tar"])
    shutil.copytree(pictures, tmp_path / "{a,b}")
    assert len(ImageIndex([str(tmp_path / "{a,b}")])) == 10  # what is there, is meant


def test_a_file_url_is_its_path(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    shutil.copytree(pictures, folder)
    assert _contents(ImageIndex([folder.as_uri()])) == _contents(ImageIndex([str(pictures)]))


def test_an_image_that_is_gone_is_unreadable_alone(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pictures, folder)
    index = ImageIndex([str(folder), str(pictures / "00.png")])
    (folder / "01.png").unlink()
    assert [data is None for data in index.read_many([1, 0, 10])] == [True, False, False]
    with pytest.raises(FileNotFoundError):
        index.read(1)
    assert index.name(10) == str(pictures / "00.png")


def test_a_part_of_a_file_reads_as_a_file() -> None:
    data = np.random.default_rng(0).bytes(100_000)
    asked: list[tuple[int, int]] = []

    def fetch(_: str, begin: int, end: int) -> bytes:
        asked.append((begin, end))
        return data[begin:end]

    part, whole = data[1000:90_000], io.BytesIO(data[1000:90_000])
    blocks = Blocks(first=64, largest=4096)
    file = RangeFile("x", 1000, len(part), fetch=fetch, blocks=blocks)
    generator = np.random.default_rng(1)
    for _ in range(300):
        offset, count = int(generator.integers(len(part))), int(generator.integers(3000))
        assert (file.seek(offset), file.read(count)) == (whole.seek(offset), whole.read(count))
    assert file.read(0) == b""
    file.seek(10, io.SEEK_END)
    assert file.read(5) == b""
    assert all(1000 <= begin < end <= 90_000 and end - begin <= 4096 for begin, end in asked)
    asked.clear()
    file.seek(0)
    while file.read(512):
        file.seek(1000, io.SEEK_CUR)
    # Nearly all of it is read, in blocks that grow: a request each would be 59.
    assert len(asked) < 30


def test_names_that_are_no_text_survive(pictures: Path, tmp_path: Path) -> None:
    tar = tmp_path / "names.tar"
    with tarfile.open(tar, "w") as archive:
        for name in ("b\udcff.png", "ä.png"):
            archive.add(pictures / "00.png", name)
    index = ImageIndex([str(tar)])
    assert [index.name(i).partition(":")[2] for i in range(2)] == ["b\udcff.png", "ä.png"]
