r"""Images a second that training's loader gives, by where the images lie.

    python -m benchmarks.data_loading --workers 2 --out OUT.json
    python -m benchmarks.data_loading --workers 16 --images 20000 --batch 128 --out OUT.json

Protocol: JPEGs of 500 x 375 pixels (about ImageNet's), cut from the sample photographs; shuffled
reads through the real loader into 256-pixel crops; every kind of place in turns for some rounds; of
each the median, and its share of what the same workers do with the bytes already in memory, which
is decoding and cropping alone. The server is one of this machine, with the given latency an answer.
"""

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from benchmarks.web_store import Store
from flowmo.imaging.reading import read_image
from flowmo.photographs import photograph_paths
from flowmo.training.config import DataConfig
from flowmo.training.data.batches import CropDataset, batches
from flowmo.training.data.index import ImageIndex
from flowmo.training.data.sources.source import Source
from flowmo.training.json_report import write_json

_WIDTH, _HEIGHT = 500, 375
_CLASSES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Of one kind of place; ``share`` is of the images in memory."""

    place: str
    images_per_second: float
    slowest: float
    fastest: float
    share: float


class InMemory(ImageIndex):
    """The encoded images of another index, read beforehand."""

    def __init__(self, index: Source) -> None:
        self._held = index.read_many(range(len(index)))

    def __len__(self) -> int:
        return len(self._held)

    def name(self, i: int) -> str:
        """Its number."""
        return str(i)

    def read(self, i: int) -> bytes:
        """Its bytes."""
        data = self._held[i]
        assert data is not None
        return data

    def read_many(self, indices: Sequence[int]) -> list[bytes | None]:
        """Their bytes."""
        return [self._held[i] for i in indices]

    def close(self) -> None:
        """Nothing is open."""


def write_places(folder: Path, count: int) -> dict[str, str]:
    """The same images in every kind of place; what ``data.paths`` calls each.

    Raises:
        ImportError: the extra ``datasets`` is not installed.
    """
    import datasets

    generator = np.random.default_rng(0)
    photographs = [read_image(path.read_bytes()).picture for path in photograph_paths()]
    files = folder / "folder"
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        side = min(photograph.width / _WIDTH, photograph.height / _HEIGHT) * generator.uniform(
            0.5, 1
        )
        width, height = side * _WIDTH, side * _HEIGHT
        left = generator.uniform(0, photograph.width - width)
        top = generator.uniform(0, photograph.height - height)
        box = (left, top, left + width, top + height)
        target = files / f"class{i % _CLASSES}" / f"{i:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        photograph.resize((_WIDTH, _HEIGHT), box=box).save(target, quality=90)
    with tarfile.open(folder / "all.tar", "w") as archive:
        archive.add(files, ".")
    with tarfile.open(folder / "classes.tar", "w") as archive:
        for part in sorted(files.iterdir()):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                inner.add(part, ".")
            header = tarfile.TarInfo(f"{part.name}.tar")
            header.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(header, buffer)
    cells = [{"bytes": file.read_bytes(), "path": None} for file in sorted(files.rglob("*.jpg"))]
    rows = datasets.Dataset.from_dict(
        {"image": cells}, features=datasets.Features({"image": datasets.Image(decode=False)})
    )
    datasets.disable_progress_bars()
    rows.save_to_disk(folder / "rows")
    return {
        "folder": str(files),
        "tar": str(folder / "all.tar"),
        "tar of tars": str(folder / "classes.tar"),
        "data set (datasets)": f"hf:{folder / 'rows'}",
    }


def images_per_second(index: ImageIndex, *, size: int, batch: int, workers: int) -> float:
    """One epoch; the first batch, which waits for processes to start, is not timed."""
    dataset = CropDataset(index, size=size, config=DataConfig(), seed=0)
    loader = batches(
        dataset, start=0, steps=len(index) // batch, batch_size=batch, workers=workers, pin=False
    )
    with closing(iter(loader)) as given:
        next(given)
        start = time.perf_counter()
        images = sum(len(group.images) for group in given)
        return images / (time.perf_counter() - start)


def measure(
    indexes: Mapping[str, ImageIndex], *, size: int, batch: int, workers: int, rounds: int
) -> Iterator[Row]:
    """The speed of each index, beside that of the first."""
    found: dict[str, list[float]] = {place: [] for place in indexes}
    for _ in range(rounds):
        for place, index in indexes.items():
            found[place].append(images_per_second(index, size=size, batch=batch, workers=workers))
    best = statistics.median(next(iter(found.values())))
    for place, speeds in found.items():
        median = statistics.median(speeds)
        yield Row(
            place=place,
            images_per_second=median,
            slowest=min(speeds),
            fastest=max(speeds),
            share=median / best,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=20.0, help="of the server's answers")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.images < 2 * options.batch:
        parser.error(f"--images must be two batches or more, {2 * options.batch}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = write_places(folder, options.images)
        with closing(Store(folder)) as store:
            places["tar at a URL"] = f"{store.url}/all.tar"
            indexes = {place: ImageIndex([path]) for place, path in places.items()}
            store.latency = options.latency_ms / 1000
            indexes = {"memory": InMemory(indexes["folder"])} | indexes
            rows = list(
                measure(
                    indexes,
                    size=options.size,
                    batch=options.batch,
                    workers=options.workers,
                    rounds=options.rounds,
                )
            )
    for row in rows:
        print(
            f"{row.place:22}{row.images_per_second:9.1f} images/s "
            f"({row.slowest:.1f} ... {row.fastest:.1f})   {row.share:.2f} of memory"
        )
    if options.out is not None:
        settings = {
            name: getattr(options, name)
            for name in ("images", "size", "batch", "workers", "rounds", "latency_ms")
        }
        report = {"settings": settings, "rows": [asdict(row) for row in rows]}
        write_json(options.out, report | {"environment": environment()})


if __name__ == "__main__":
    main()
