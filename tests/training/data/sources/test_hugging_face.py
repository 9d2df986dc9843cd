"""Images of Hugging Face data sets: parquet files, saved ones, folders of files."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from rich.console import Console

from flowmo.training.checkpointing.checkpoint import load_checkpoint
from flowmo.training.config import DataConfig, TrainConfig
from flowmo.training.data.batches import CropDataset, batches
from flowmo.training.data.index import ImageIndex
from flowmo.training.data.sources.hugging_face import DatasetAddress
from flowmo.training.errors import DataError
from flowmo.training.loop.trainer import train

# Python 3.12 warns when a process with threads forks; torch has threads, and its workers are forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

SIZE = 32


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``datasets`` prepares is not kept."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")


@pytest.fixture
def files(pictures: Path) -> list[Path]:
    return sorted(pictures.rglob("*.png"), key=lambda file: file.relative_to(pictures).as_posix())


def _table(cells: list[Any], *, column: str = "image") -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"label": list(range(len(cells))), column: cells},
        features=datasets.Features(
            {"label": datasets.Value("int64"), column: datasets.Image(decode=False)}
        ),
    )


def _cell(file: Path) -> dict[str, Any]:
    return {"bytes": file.read_bytes(), "path": None}


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        image.load()
        return image


@pytest.fixture
def parquet(files: list[Path], tmp_path: Path) -> Path:
    """A folder with one parquet file whose rows hold the pictures' own bytes."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    _table([_cell(file) for file in files]).to_parquet(folder / "train-00000.parquet")
    return folder


def _crops(paths: tuple[str, ...], workers: int = 0) -> torch.Tensor:
    index = ImageIndex(paths)
    dataset = CropDataset(index, size=SIZE, config=DataConfig(), seed=0)
    loader = batches(
        dataset, start=3, steps=4, batch_size=4, workers=workers, pin=False, period=None
    )
    return torch.cat([batch.images for batch in loader])


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_give_the_samples_of_the_files_they_were_made_from(
    parquet: Path, files: list[Path], workers: int
) -> None:
    expected = _crops(tuple(map(str, files)))
    assert torch.equal(_crops((f"hf:{parquet}",), workers), expected)


def test_a_saved_data_set_is_read_by_its_split(files: list[Path], tmp_path: Path) -> None:
    held = _table([_cell(file) for file in files[:2]])
    splits = datasets.DatasetDict({"train": _table([_cell(file) for file in files]), "test": held})
    splits.save_to_disk(tmp_path / "saved")
    held.save_to_disk(tmp_path / "one")
    assert len(ImageIndex([f"hf:{tmp_path}/saved"])) == len(files)
    test = ImageIndex([f"hf:{tmp_path}/saved?split=test"])
    assert test.read_many(range(2)) == [file.read_bytes() for file in files[:2]]
    assert ImageIndex([f"hf:{tmp_path}/one"]).read(1) == files[1].read_bytes()
    with pytest.raises(DataError, match=r"no split 'valid'; there are train, test"):
        ImageIndex([f"hf:{tmp_path}/saved?split=valid"])


def test_a_folder_of_files_is_read_where_it_lies(files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, file in enumerate(files[:3]):
        (folder / f"{i}.png").write_bytes(file.read_bytes())
    index = ImageIndex([f"hf:{folder}"])
    assert index.read_many([2, 0]) == [files[2].read_bytes(), files[0].read_bytes()]
    (folder / "1.png").unlink()
    assert index.read_many([1, 2]) == [None, files[2].read_bytes()]


def test_rows_without_an_image_are_skipped_and_named(files: list[Path], tmp_path: Path) -> None:
    cut = {"bytes": files[0].read_bytes()[:60], "path": None}
    empty = {"bytes": b"", "path": None}
    cells = [_cell(files[0]), None, empty, cut, *(_cell(file) for file in files[1:5])]
    _table(cells).save_to_disk(tmp_path / "holes")
    index = ImageIndex([f"hf:{tmp_path}/holes"])
    assert index.read_many([1]) == [None]
    loader = batches(
        CropDataset(index, size=SIZE, config=DataConfig(), seed=0),
        start=0, steps=2, batch_size=4, workers=0, pin=False,
    )  # fmt: skip
    unreadable = {i for batch in loader for i in batch.unreadable}
    assert unreadable == {1, 2, 3}
    assert index.name(3) == f"hf:{tmp_path}/holes: row 3"


def test_the_column_is_found_where_one_holds_images(files: list[Path], tmp_path: Path) -> None:
    _table([_cell(file) for file in files[:2]], column="jpg").save_to_disk(tmp_path / "other")
    assert len(ImageIndex([f"hf:{tmp_path}/other"])) == 2
    with pytest.raises(DataError, match=r"no column 'image'; there are label \(Value\), jpg"):
        ImageIndex([f"hf:{tmp_path}/other?column=image"])
    with pytest.raises(DataError, match=r"column 'label' holds no images but"):
        ImageIndex([f"hf:{tmp_path}/other?column=label"])
    two = datasets.load_from_disk(str(tmp_path / "other"))
    two.add_column("again", two["jpg"], feature=datasets.Image(decode=False)).save_to_disk(
        tmp_path / "two"
    )
    with pytest.raises(DataError, match=r"2 columns hold images; name one with column="):
        ImageIndex([f"hf:{tmp_path}/two"])
    assert len(ImageIndex([f"hf:{tmp_path}/two?column=again"])) == 2


def test_raw_bytes_may_be_images(files: list[Path], tmp_path: Path) -> None:
    raw = datasets.Dataset.from_dict({"data": [file.read_bytes() for file in files[:2]]})
    raw.save_to_disk(tmp_path / "raw")
    with pytest.raises(DataError, match=r"no column holds images; name one with column="):
        ImageIndex([f"hf:{tmp_path}/raw"])
    assert ImageIndex([f"hf:{tmp_path}/raw?column=data"]).read(1) == files[1].read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf:", "names no data set"),
        ("hf://owner/name?spilt=train", "no option spilt; there are split, column"),
        ("hf:owner/name", "is no folder; a data set of the hub is written hf://owner/name"),
    ],
)
def test_addresses_with_a_slip_are_explained(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageIndex([text])


def test_a_damaged_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"cannot be loaded"):
        ImageIndex([f"hf:{tmp_path}"])


def test_an_address_of_the_hub() -> None:
    found = DatasetAddress.parse("hf://owner/name?split=train[:10%25]&column=img&revision=v1")
    assert found == DatasetAddress(
        name="owner/name", on_hub=True, split="train[:10%]", column="img", revision="v1"
    )


def test_a_run_resumes_exactly(
    run_config: Callable[..., TrainConfig], parquet: Path, tmp_path: Path
) -> None:
    def run(name: str, *, steps: int, resume: bool = False) -> Path:
        data = DataConfig(paths=(f"hf:{parquet}",), workers=1)
        config = run_config(data=data, steps=steps, output=str(tmp_path / name))
        return train(config, resume=resume, console=Console(file=io.StringIO())).checkpoint

    straight = load_checkpoint(run("straight", steps=4)).tensors()
    run("parts", steps=2)
    parts = load_checkpoint(run("parts", steps=4, resume=True)).tensors()
    assert [name for name in straight if not torch.equal(straight[name], parts[name])] == []
    lines = (tmp_path / "parts" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["unreadable_images"] == 0


def test_pictures_stay_encoded(files: list[Path], tmp_path: Path) -> None:
    """What ``datasets`` would decode is decoded by us, with its orientation and its limits."""
    pictures = datasets.Dataset.from_dict({"image": [_opened(file) for file in files[:2]]})
    pictures.save_to_disk(tmp_path / "pictures")
    data = ImageIndex([f"hf:{tmp_path}/pictures"]).read(0)
    with Image.open(io.BytesIO(data)) as held, Image.open(files[0]) as file:
        assert held.size == file.size
