"""Tars as data sets come in, and a web server of them."""

import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.web_store import Store
from flowmo.training.data.sources import retrying


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    folder = tmp_path / "store"
    folder.mkdir()
    store = Store(folder)
    yield store
    store.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without waiting."""
    monkeypatch.setattr(retrying, "DELAYS", (0.0, 0.01, 0.01))


@pytest.fixture
def make_tar() -> Callable[..., Path]:
    """A tar of a folder, in any order, with what else WebDataset keeps beside images."""

    def make(folder: Path, path: Path, *, beside: bool = False) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for file in sorted(folder.rglob("*"), reverse=True):
                name = "./" + file.relative_to(folder).as_posix()
                archive.add(file, name, recursive=False)
                if beside and file.is_file():
                    for suffix in (".json", ".cls", ".npy.gz"):
                        archive.add(__file__, str(Path(name).with_suffix("")) + suffix)
        return path

    return make


@pytest.fixture
def nested_tar(pictures: Path, tmp_path: Path, make_tar: Callable[..., Path]) -> tuple[Path, Path]:
    """(folder of classes, tar of a tar a class), as ImageNet's training set is published."""
    folder, classes = tmp_path / "classes", tmp_path / "tars"
    for i, file in enumerate(sorted(pictures.rglob("*.png"))):
        target = folder / f"n0{i % 3}" / f"n0{i % 3}_{i}.JPEG"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    classes.mkdir()
    for part in folder.iterdir():
        make_tar(part, classes / f"{part.name}.tar")
    return folder, make_tar(classes, tmp_path / "ILSVRC2012_img_train.tar")
