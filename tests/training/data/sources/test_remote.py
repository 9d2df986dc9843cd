"""Images at URLs: a web server of this process, and fsspec's memory."""

import io
import json
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from rich.console import Console

from benchmarks.web_store import Store
from flowmo.training.checkpointing.checkpoint import load_checkpoint
from flowmo.training.config import DataConfig, TrainConfig
from flowmo.training.data.batches import Batch, CropDataset, batches, decode_all
from flowmo.training.data.index import ImageIndex
from flowmo.training.data.sources.urls import shown
from flowmo.training.errors import DataError
from flowmo.training.loop.trainer import train

# Python 3.12 warns when a process with threads forks; torch has threads, and its workers are forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

SIZE = 32
MakeTar = Callable[..., Path]


def _contents(index: ImageIndex) -> list[bytes | None]:
    found = index.read_many(range(len(index)))
    index.close()
    return found


def _crops(index: ImageIndex, workers: int = 0) -> torch.Tensor:
    dataset = CropDataset(index, size=SIZE, config=DataConfig(), seed=0)
    loader = batches(dataset, start=3, steps=4, batch_size=6, workers=workers, pin=False)
    found: list[Batch] = list(loader)
    index.close()
    return torch.cat([batch.images for batch in found])


@pytest.fixture
def memory(pictures: Path) -> Iterator[str]:
    """The pictures in fsspec's memory."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(pictures), "/bucket/pictures", recursive=True)
    yield "memory://bucket/pictures"
    filesystem.rm("/bucket", recursive=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_copy_at_a_url_gives_the_same_samples(
    pictures: Path, store: Store, make_tar: MakeTar, workers: int
) -> None:
    expected = _crops(ImageIndex([str(pictures)]))
    shutil.copytree(pictures, store.folder / "folder")
    make_tar(pictures, store.folder / "all.tar", beside=True)
    for place in ("folder", "folder/", "all.tar", "all.tar?signature=abc"):
        index = ImageIndex([f"{store.url}/{place}"])
        assert torch.equal(_crops(index, workers), expected), place


@pytest.mark.parametrize("form", ["", "/*.png", "/{0{0..2}.png,more/03.png}"])
def test_folders_patterns_and_braces_of_a_filesystem_without_coroutines(
    pictures: Path, memory: str, form: str
) -> None:
    paths = {
        "": [pictures],
        "/*.png": sorted(pictures.glob("*.png")),
        "/{0{0..2}.png,more/03.png}": [
            *(pictures / f"0{i}.png" for i in range(3)),
            pictures / "more/03.png",
        ],
    }[form]
    assert _contents(ImageIndex([memory + form])) == _contents(ImageIndex([*map(str, paths)]))


def test_an_imagenet_tar_at_a_url_is_read_in_place(
    nested_tar: tuple[Path, Path], store: Store
) -> None:
    folder, tar = nested_tar
    shutil.copy(tar, store.folder / "train.tar")
    index = ImageIndex([f"{store.url}/train.tar"])
    assert index.name(0) == f"{store.url}/train.tar:n00/n00_0.JPEG"
    assert _contents(index) == _contents(ImageIndex([str(folder)]))


def test_sources_of_all_kinds_are_one_list_in_its_order(
    pictures: Path, store: Store, memory: str, make_tar: MakeTar
) -> None:
    for i in range(3):
        make_tar(pictures / "more", store.folder / f"s-{i:03d}.tar")
    index = ImageIndex([memory, f"{store.url}/s-{{000..002}}.tar", str(pictures)])
    one = (pictures / "more/03.png").read_bytes()
    whole = _contents(ImageIndex([str(pictures)]))
    assert _contents(index) == [*whole, one, one, one, *whole]
    assert index.read_many([22, 11, 0, 12]) == [whole[9], one, whole[0], one]
    assert pickle.loads(pickle.dumps(index)).read(11) == one
    index.close()


def test_a_whole_batch_is_one_round_of_requests(
    pictures: Path, store: Store, make_tar: MakeTar
) -> None:
    make_tar(pictures, store.folder / "all.tar")
    index = ImageIndex([f"{store.url}/all.tar"])
    store.asked.clear()
    store.latency = 1.0
    begin = time.monotonic()
    assert _contents(index) == _contents(ImageIndex([str(pictures)]))
    assert store.asked == {"GET /all.tar": 10}
    assert time.monotonic() - begin < 5.0  # one after the other would take twice that


def test_the_memory_cache_reads_from_urls(pictures: Path, memory: str) -> None:
    one, other = (
        decode_all(ImageIndex([path]), size=SIZE, config=DataConfig())
        for path in (str(pictures), memory)
    )
    for a, b in zip(one, other, strict=True):
        assert a is not None
        assert b is not None
        assert (a == b).all()


# The index on disk


def test_headers_are_read_once_until_the_tar_changes(
    pictures: Path, store: Store, make_tar: MakeTar, tmp_path: Path
) -> None:
    tar, cache, reported = store.folder / "all.tar", str(tmp_path / "cache"), list[str]()
    url = f"{store.url}/all.tar"

    def index() -> ImageIndex:
        store.asked.clear()
        reported.clear()
        return ImageIndex([url], cache=cache, report=reported.append)

    make_tar(pictures, tar)
    first = index()
    assert store.asked["GET /all.tar"] >= 1
    assert reported == [
        f"reading the headers of 1 tar (0.0 GB), once; the index is kept in {cache}"
    ]
    again = index()
    assert store.asked == {"HEAD /all.tar": 1}
    assert reported == []
    assert _contents(again) == _contents(first)
    make_tar(pictures / "more", tar)
    assert len(index()) == 1
    assert store.asked["GET /all.tar"] >= 1
    # A file that a crash cut short is no obstacle.
    (held,) = (tmp_path / "cache").iterdir()
    held.write_bytes(held.read_bytes()[:100])
    assert len(index()) == 1
    first.close()


def test_local_tars_are_indexed_once_too(pictures: Path, tmp_path: Path, make_tar: MakeTar) -> None:
    tar, reported = make_tar(pictures, tmp_path / "all.tar"), list[str]()
    for _ in range(2):
        ImageIndex([str(tar)], cache=str(tmp_path / "cache"), report=reported.append).close()
    assert len(reported) == 1
    make_tar(pictures / "more", tar)
    assert len(ImageIndex([str(tar)], cache=str(tmp_path / "cache"), report=reported.append)) == 1


def test_a_cache_that_cannot_be_written_is_told_and_stops_nothing(
    pictures: Path, tmp_path: Path, make_tar: MakeTar
) -> None:
    (tmp_path / "file").write_text("")
    reported: list[str] = []
    tar = make_tar(pictures, tmp_path / "all.tar")
    index = ImageIndex([str(tar)], cache=str(tmp_path / "file" / "cache"), report=reported.append)
    assert len(index) == 10
    assert "set data.index_cache to a folder that can be written" in reported[-1]


# Storage that fails


def test_storage_that_fails_for_a_moment_is_asked_again(
    pictures: Path, store: Store, make_tar: MakeTar
) -> None:
    make_tar(pictures, store.folder / "all.tar")
    index = ImageIndex([f"{store.url}/all.tar"])
    store.failing = 2
    assert torch.equal(_crops(index, workers=2), _crops(ImageIndex([str(pictures)])))
    assert store.failing == 0
    store.failing = 10  # as many of a batch of ten
    assert _contents(index) == _contents(ImageIndex([str(pictures)]))


@pytest.mark.parametrize("workers", [0, 2])
def test_storage_that_is_gone_stops_the_run_and_is_no_corrupt_image(
    pictures: Path, store: Store, make_tar: MakeTar, workers: int
) -> None:
    make_tar(pictures, store.folder / "all.tar")
    index = ImageIndex([f"{store.url}/all.tar?secret=1"])
    store.close()
    # In one line, also out of a worker, whose traceback torch would make the message.
    with pytest.raises(DataError, match=rf"^{store.url}/all.tar cannot be read, after 4 attempt"):
        _crops(index, workers)


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (429, 4), (500, 4)])
def test_answers_that_time_does_not_change_are_not_repeated(
    pictures: Path, store: Store, make_tar: MakeTar, status: int, attempts: int
) -> None:
    make_tar(pictures, store.folder / "all.tar")
    index = ImageIndex([f"{store.url}/all.tar"])
    store.asked.clear()
    store.failing, store.status = 99, status
    with pytest.raises(DataError, match=rf"after {attempts} attempt"):
        index.read(0)
    assert store.asked.total() == attempts
    index.close()


def test_a_server_without_ranges_is_an_error_and_not_wrong_pictures(
    pictures: Path, store: Store, make_tar: MakeTar
) -> None:
    make_tar(pictures, store.folder / "all.tar")
    index = ImageIndex([f"{store.url}/all.tar"])
    store.ranges = False
    with pytest.raises(DataError, match="must answer range requests"):
        index.read(0)
    index.close()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none.tar", "none.tar cannot be read, after 1 attempt"),
        ("all.tar.gz", "unpack it"),
        ("broken.tar", "broken.tar cannot be read as an uncompressed tar"),
        ("shards", r"no images in the folder .*/shards; for its 1 tars, give .*/shards/\*.tar"),
        ("shards/*.zip", "nothing matches"),
        ("shards/*", "notes.txt is not a folder, an image"),
    ],
)
def test_unusable_urls_are_explained(
    pictures: Path, store: Store, make_tar: MakeTar, place: str, message: str
) -> None:
    make_tar(pictures, store.folder / "shards" / "a.tar")
    (store.folder / "shards" / "notes.txt").write_text("")
    (store.folder / "all.tar.gz").write_bytes(b"")
    (store.folder / "broken.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match=message):
        ImageIndex([f"{store.url}/{place}"])


def test_protocols_without_their_library_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(protocol: str) -> None:
        raise ImportError("Install s3fs to access S3")

    with pytest.raises(DataError, match="Protocol not known: nonsense"):
        ImageIndex(["nonsense://bucket/a.tar"])
    with pytest.raises(DataError, match="chained URLs are not read"):
        ImageIndex(["s3://bucket::simplecache://a.tar"])
    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(DataError, match=r"pip install 'flowmo-serve\[s3\]'"):
        ImageIndex(["s3://bucket/a.tar"])


def test_secrets_of_urls_are_not_shown() -> None:
    assert shown("https://me:key@host:1/a.tar?X-Amz-Signature=1") == "https://host:1/a.tar"
    assert shown("/a?b.png") == "/a?b.png"


# The trainer


def test_a_run_from_a_url_resumes_exactly(
    run_config: Callable[..., TrainConfig],
    pictures: Path,
    store: Store,
    make_tar: MakeTar,
    tmp_path: Path,
) -> None:
    make_tar(pictures, store.folder / "all.tar")

    def run(name: str, *, steps: int, data: DataConfig, resume: bool = False) -> Path:
        config = run_config(data=data, steps=steps, output=str(tmp_path / name))
        return train(config, resume=resume, console=Console(file=io.StringIO())).checkpoint

    local = DataConfig(paths=(str(pictures),), workers=0)
    remote = replace(
        local,
        paths=(f"{store.url}/all.tar",),
        workers=2,
        index_cache=str(tmp_path / "cache"),
    )
    straight = load_checkpoint(run("local", steps=6, data=local)).tensors()
    run("remote", steps=3, data=remote)
    store.failing = 2
    resumed = run("remote", steps=6, data=remote, resume=True)
    state = load_checkpoint(resumed).tensors()
    assert [name for name in straight if not torch.equal(straight[name], state[name])] == []
    lines = (tmp_path / "remote" / "log.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["unreadable_images"] == 0
    assert 0 <= last["data_share"] <= 1
    assert last["data_share"] == pytest.approx(last["data_ms"] / last["step_ms"], rel=1e-4)
