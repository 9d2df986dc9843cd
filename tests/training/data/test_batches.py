"""Images from folders and tars, and batches that depend on (seed, position) alone."""

import io
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowmo.imaging.fit import read_square
from flowmo.imaging.reading import ImageError
from flowmo.training.config import DataConfig
from flowmo.training.data.batches import (
    Batch,
    CropDataset,
    Place,
    batches,
    decode_all,
    fixed_images,
)
from flowmo.training.data.images import augment, decode_image
from flowmo.training.data.index import ImageIndex
from flowmo.training.errors import DataError

# Python 3.12 warns when a process with threads forks; torch has threads, and its workers are forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

SIZE = 32


def _dataset(*paths: Path, config: DataConfig | None = None, seed: int = 0) -> CropDataset:
    index = ImageIndex([str(path) for path in paths])
    return CropDataset(index, size=SIZE, config=config or DataConfig(), seed=seed)


def _crops(dataset: CropDataset, positions: range) -> torch.Tensor:
    return torch.stack([dataset[position].image for position in positions])


def _tar(folder: Path, path: Path, *, prefix: str = "./") -> Path:
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):  # any order
            archive.add(file, prefix + file.relative_to(folder).as_posix(), recursive=False)
    return path


@pytest.fixture
def damaged(pictures: Path, tmp_path: Path) -> Path:
    """The pictures, with one file truncated and one of another kind."""
    folder = tmp_path / "damaged"
    shutil.copytree(pictures, folder)
    whole = (folder / "05.png").read_bytes()
    (folder / "05.png").write_bytes(whole[: len(whole) // 2])
    (folder / "07.png").write_bytes(b"no image at all")
    return folder


def test_a_tar_and_its_folder_give_the_same_samples(pictures: Path, tmp_path: Path) -> None:
    folder, tar = _dataset(pictures), _dataset(_tar(pictures, tmp_path / "all.tar"))
    assert len(folder) == len(tar) == 10
    assert torch.equal(_crops(folder, range(25)), _crops(tar, range(25)))


def test_lists_and_patterns_of_tars_are_read_in_order(pictures: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(pictures / "00.png", half / "b.png")
    shutil.copy(pictures / "01.png", half / "a.PNG")
    _tar(half, tmp_path / "part-0.tar")
    _tar(half, tmp_path / "part-1.tar", prefix="")
    pattern = ImageIndex([str(tmp_path / "part-*.tar"), str(pictures / "02.png")])
    names = [pattern.name(i).replace(str(tmp_path), "") for i in range(4)]
    assert names == [
        "/part-0.tar:a.PNG",
        "/part-0.tar:b.png",
        "/part-1.tar:a.PNG",
        "/part-1.tar:b.png",
    ]
    assert pattern.read(0) == (pictures / "01.png").read_bytes()
    assert pattern.read(4) == (pictures / "02.png").read_bytes()
    assert pickle.loads(pickle.dumps(pattern)).read(3) == pattern.read(3)
    pattern.close()
    assert pattern.read(1) == (pictures / "00.png").read_bytes()
    pattern.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "is no folder, image, tar or matching pattern"),
        ("empty", "no images in"),
        ("text.txt", "is not a folder, an image"),
        ("all.tar.gz", "unpack it"),
        ("broken.tar", "cannot be read as an uncompressed tar"),
    ],
)
def test_unusable_paths_are_explained(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("")
    (tmp_path / "all.tar.gz").write_bytes(b"")
    (tmp_path / "broken.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match=message):
        ImageIndex([str(tmp_path / name)])


def test_no_paths_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no images in the"):
        ImageIndex([])


def test_an_epoch_visits_every_image_once_in_its_own_order(pictures: Path) -> None:
    # With centre crops the sample is the image, so the order can be read off.
    dataset = _dataset(pictures, config=DataConfig(crop="centre"))
    first, second = _crops(dataset, range(10)), _crops(dataset, range(10, 20))
    as_sets = [{image.numpy().tobytes() for image in epoch} for epoch in (first, second)]
    assert len(as_sets[0]) == 10
    assert as_sets[0] == as_sets[1]
    assert not torch.equal(first, second)
    assert dataset.place(23) == Place(epoch=2, offset=3)


def test_samples_depend_on_seed_and_position_alone(pictures: Path) -> None:
    config = DataConfig(min_crop_scale=0.7)
    forwards = _crops(_dataset(pictures, config=config), range(30))
    dataset = _dataset(pictures, config=config)
    backwards = torch.stack([dataset[p].image for p in reversed(range(30))]).flip(0)
    assert torch.equal(forwards, backwards)
    other = _crops(_dataset(pictures, config=config, seed=1), range(30))
    assert not torch.equal(forwards, other)


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_count_and_restart_do_not_change_the_data(pictures: Path, workers: int) -> None:
    def read(start: int, steps: int, workers: int) -> torch.Tensor:
        loader = batches(
            _dataset(pictures), start=start, steps=steps, batch_size=4, workers=workers, pin=False
        )
        found: list[Batch] = list(loader)
        assert len(found) == steps
        return torch.cat([batch.images for batch in found])

    assert torch.equal(read(0, 6, 0)[8:], read(8, 4, workers))


def test_reading_data_leaves_the_global_generator_alone(pictures: Path) -> None:
    before = torch.get_rng_state()
    list(batches(_dataset(pictures), start=0, steps=2, batch_size=2, workers=1, pin=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_cache_changes_nothing_but_speed(damaged: Path) -> None:
    config = DataConfig(min_crop_scale=0.8)
    plain = _dataset(damaged, config=config)
    index = ImageIndex([str(damaged)])
    reported: list[tuple[int, int]] = []
    decoded = decode_all(
        index, size=SIZE, config=config, progress=lambda done, all_: reported.append((done, all_))
    )
    cached = CropDataset(index, size=SIZE, config=config, seed=0, decoded=decoded)
    assert torch.equal(_crops(plain, range(20)), _crops(cached, range(20)))
    assert [plain[p].unreadable for p in range(20)] == [cached[p].unreadable for p in range(20)]
    assert reported[-1] == (10, 10)


def test_a_cache_over_its_limit_is_refused(pictures: Path) -> None:
    with pytest.raises(DataError, match="cache_limit_gib = 1e-06 after 1 of 10"):
        decode_all(ImageIndex([str(pictures)]), size=SIZE, config=DataConfig(cache_limit_gib=1e-6))


def test_unreadable_images_are_replaced_and_reported(damaged: Path) -> None:
    dataset = _dataset(damaged, config=DataConfig(crop="centre", max_corrupt=2))
    samples = [dataset[position] for position in range(10)]
    reported = sorted(i for sample in samples for i in sample.unreadable)
    names = {ImageIndex([str(damaged)]).name(i).rpartition(":")[2] for i in reported}
    assert names == {"05.png", "07.png"}
    good = {sample.image.numpy().tobytes() for sample in samples}
    assert len(good) == 8
    batch: Batch = next(
        iter(batches(dataset, start=0, steps=1, batch_size=10, workers=0, pin=False))
    )
    assert sorted(batch.unreadable) == reported


def test_more_unreadable_images_in_a_row_than_allowed_raise(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"3 unreadable images, more than data\.max_corrupt = 2"):
        _dataset(tmp_path, config=DataConfig(max_corrupt=2))[0]
    with pytest.raises(DataError, match="4 unreadable images"):
        _dataset(tmp_path, config=DataConfig(max_corrupt=100))[0]
    with pytest.raises(DataError, match="none of the 4 sample images"):
        fixed_images(ImageIndex([str(tmp_path)]), size=SIZE, count=2)


def test_sample_images_are_centre_crops_of_the_first_readable(damaged: Path) -> None:
    index = ImageIndex([str(damaged)])
    images = fixed_images(index, size=SIZE, count=4)
    assert images.shape == (4, 3, SIZE, SIZE)
    assert len(fixed_images(index, size=SIZE, count=100)) == 8


# Decoding and cropping


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_images_shrink_to_the_asked_side_and_small_ones_stay(kind: str) -> None:
    x = np.linspace(0, 255, 400)[None, :, None]
    picture = Image.fromarray(np.broadcast_to(x, (300, 400, 3)).astype(np.uint8))
    config = DataConfig(min_crop_scale=0.5)
    pixels = decode_image(_encoded(picture, kind), 30, config)
    assert pixels.shape == (60, 80, 3)
    expected = np.linspace(0, 255, 80)
    assert np.abs(pixels.mean((0, 2)) - expected).max() < 4
    assert decode_image(_encoded(picture, kind), 500, config).shape == (300, 400, 3)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_truncated_bytes_are_unreadable(keep: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 30, 3)).astype(np.uint8)
    data = _encoded(Image.fromarray(noise))
    with pytest.raises(ImageError):
        decode_image(data[:keep], 16, DataConfig())


def test_crops_lie_inside_and_are_mirrored_half_of_the_time() -> None:
    height, width = 40, 60
    y, x = np.mgrid[:height, :width]
    image = np.stack([y, x, np.zeros_like(x)], axis=-1).astype(np.uint8)
    config = DataConfig()
    mirrored, lefts = 0, set()
    for seed in range(400):
        crop = augment(image, height, config, np.random.default_rng(seed)).astype(int)
        assert crop.shape == (3, height, height)
        steps = np.diff(crop[1], axis=1)
        assert (steps == 1).all() or (steps == -1).all()
        mirrored += int(steps[0, 0] == -1)
        lefts.add(int(crop[1].min()))
    assert 150 < mirrored < 250
    assert lefts == set(range(width - height + 1))
    still = replace(config, horizontal_flip=False)
    assert augment(image, height, still, np.random.default_rng(0))[1, 0, 1] > 0


def test_crop_scale_bounds_the_side_and_never_enlarges_needlessly() -> None:
    x = np.broadcast_to(np.linspace(0, 254, 128)[None, :, None], (128, 128, 3)).astype(np.uint8)
    config = DataConfig(min_crop_scale=0.25, horizontal_flip=False)
    spans = []
    for seed in range(200):
        crop = augment(x, 32, config, np.random.default_rng(seed))
        spans.append((int(crop[0, 0, -1]) - int(crop[0, 0, 0])) / 254)
    assert min(spans) == pytest.approx(0.25, abs=0.05)
    assert max(spans) == pytest.approx(1.0, abs=0.05)
    small = augment(x[:20, :30], 32, config, np.random.default_rng(0))
    assert small.shape == (3, 32, 32)


def test_a_centred_crop_is_the_square_that_a_server_sees() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    data = _encoded(Image.fromarray(image))
    config = DataConfig(crop="centre")
    for size in (10, 7):
        square = decode_image(data, size, config)
        np.testing.assert_array_equal(square, read_square(data, size))
        assert (square[:, 1:-1] == 255).all()  # the filter sees a pixel beyond the cut
        crop = augment(square, size, config, np.random.default_rng(0))
        np.testing.assert_array_equal(crop, square.transpose(2, 0, 1))
