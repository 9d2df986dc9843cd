"""Images to a data set of tokens: rows, labels, and a kill in the middle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowmo.imaging.tensors import to_images
from flowmo.model.errors import ConfigError
from flowmo.model.inference import InferenceModel
from flowmo.model.loading import load_inference_model
from flowmo.training.data.images import read_training_square
from flowmo.training.data.index import ImageIndex
from flowmo.training.data.tokens import stages
from flowmo.training.data.tokens.dataset import TokenDataset, TrainingTokens
from flowmo.training.data.tokens.labels import folder_of, read_labels
from flowmo.training.data.tokens.tokenize import tokenize_dataset
from flowmo.training.errors import DataError
from tests.model.checkpoints import CONFIG, save_random


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> InferenceModel:
    folder = save_random(tmp_path_factory.mktemp("tokenizer"), CONFIG, seed=0)
    return load_inference_model(folder, device="cpu", halves=("encoder",))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png", "dog/e.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "dog" / "broken.png").write_bytes(b"no picture")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_rows_are_the_tokenizers_ids_with_labels_and_mirror_images(
    model: InferenceModel, images: Path, tmp_path: Path
) -> None:
    done = tokenize_dataset(
        model, [str(images)], tmp_path / "out", labels="folder", flips=True, part_size=2
    )
    assert (done.rows, done.classes, done.written) == (10, 2, 3)
    assert [name.rpartition("/")[2] for name in done.unreadable] == ["broken.png"]
    ids = np.load(tmp_path / "out" / "ids.npy", mmap_mode="r")
    assert (ids.dtype, ids.shape) == (np.uint16, (10, 4))
    square = read_training_square((images / "cat/b.png").read_bytes(), CONFIG.image_size)
    for row, pixels in ((2, square), (3, square[:, ::-1].copy())):
        (expected,) = model.tokenize(to_images([pixels]))
        assert ids[row].tolist() == expected.ids.flatten().tolist()
    assert ids[2].tolist() != ids[3].tolist()
    assert np.load(tmp_path / "out" / "labels.npy").tolist() == [0] * 4 + [1] * 6
    lines = [json.loads(x) for x in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert lines[3] == {"key": f"{images}:cat/b.png", "flipped": True}
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert record["tokenizer"] == model.fingerprint
    assert record["class_names"] == ["cat", "dog"]
    again = tokenize_dataset(
        model, [str(images)], tmp_path / "out", labels="folder", flips=True, part_size=2
    )
    assert (again.rows, again.written) == (10, 0)
    with pytest.raises(ConfigError, match="is of another data set .*flips: True"):
        tokenize_dataset(model, [str(images)], tmp_path / "out", labels="folder", part_size=2)


def test_after_a_kill_the_bytes_are_the_same(
    model: InferenceModel, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path) -> int:
        return tokenize_dataset(model, [str(images)], out, part_size=2).written

    assert run(tmp_path / "whole") == 3
    encode, calls = stages.encode_squares, iter(range(2))

    def dies(*args: object, **options: object) -> stages.Rows:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return encode(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("flowmo.training.data.tokens.tokenize.encode_squares", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.undo()
    with pytest.raises(DataError, match="was stopped; run it again"):
        TokenDataset.open([str(tmp_path / "killed")])
    # What a writer leaves that was killed while it wrote.
    (tmp_path / "killed" / "parts" / ".00001.npz.0badf00d").write_bytes(b"half")
    assert run(tmp_path / "killed") == 2  # the first part is not made again
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_labels_by_file_and_what_is_missing(images: Path, tmp_path: Path) -> None:
    index = ImageIndex([str(images)])
    path = tmp_path / "labels.json"
    names = ["cat/a.png", "b.png", "c.png", "d.png", "e.png", "dog/broken.png"]
    path.write_text(json.dumps({name: number for number, name in enumerate(names)}))
    found = read_labels(str(path), index, [str(images)])
    assert found.numbers == (0, 1, 5, 2, 3, 4)  # broken.png comes before c.png
    assert (found.classes, found.names) == (6, ())
    path.write_text(json.dumps(dict.fromkeys(names[:-1], "all")))
    with pytest.raises(DataError, match="no label for 1 of 6 images, such as .*broken.png"):
        read_labels(str(path), index, [str(images)])
    with pytest.raises(DataError, match="takes none, folder, column:NAME or a JSON file"):
        read_labels("folders", index, [str(images)])
    with pytest.raises(DataError, match="labels of a column are those of Hugging Face"):
        read_labels("column:label", index, [str(images)])
    places = ["/data/train:n01/x.png", "/data/cats:x.png", "/data/cats.tar:x.png", "cats/x.png"]
    assert [folder_of(place) for place in places] == ["n01", "cats", "cats", "cats"]


def test_labels_of_a_column(tmp_path: Path, images: Path) -> None:
    import datasets

    features = datasets.Features(
        image=datasets.Image(), kind=datasets.ClassLabel(names=["cat", "dog"])
    )
    rows = {"image": [str(images / "cat/a.png"), str(images / "dog/c.png")], "kind": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    paths = [f"hf:{tmp_path / 'set'}"]
    found = read_labels("column:kind", ImageIndex(paths), paths)
    assert (found.numbers, found.names) == ((0, 1), ("cat", "dog"))
    with pytest.raises(DataError, match="no column 'label'; there are image, kind"):
        read_labels("column:label", ImageIndex(paths), paths)


def test_training_rows_come_once_an_epoch_and_in_parts(
    model: InferenceModel, images: Path, tmp_path: Path
) -> None:
    tokenize_dataset(model, [str(images / "cat")], tmp_path / "cat")
    tokenize_dataset(model, [str(images / "dog")], tmp_path / "dog")
    dataset = TokenDataset.open([str(tmp_path / "cat"), str(tmp_path / "dog")])
    everything = dataset.rows(range(5)).ids
    data = TrainingTokens(dataset, np.arange(5), seed=3, batch_size=10)
    with data.batches(start=0, steps=2, part=(0, 1), pin=False) as made:
        whole = [one.rows.ids for one in made]
    for half in (0, 1):
        with data.batches(start=0, steps=2, part=(half, 2), pin=False) as made:
            for one, both in zip(made, whole, strict=True):
                assert torch.equal(one.rows.ids, both[5 * half : 5 * half + 5])
    for epoch in whole[0].chunk(2):
        assert sorted(epoch.tolist()) == sorted(everything.tolist())
    with data.batches(start=7, steps=1, part=(0, 1), pin=False) as made:
        assert torch.equal(next(made).rows.ids[:3], whole[0][7:])
    tokenize_dataset(model, [str(images / "cat")], tmp_path / "named", labels="folder")
    with pytest.raises(DataError, match=r"do not go together: their classes are 1 and 0"):
        TokenDataset.open([str(tmp_path / "cat"), str(tmp_path / "named")])
