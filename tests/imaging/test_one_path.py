"""The same file gives the same square to the server, the command line, evaluation and training."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from benchmarks.display_p3 import display_p3
from flowmo.cli.local_backend import LocalBackend
from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_pixels
from flowmo.model.inference import InferenceModel
from flowmo.model.tokens import Tokens
from flowmo.photographs import photograph_paths
from flowmo.service.engine.runner import Runner
from flowmo.training.config import DataConfig
from flowmo.training.data.batches import CropDataset, decode_all, fixed_images
from flowmo.training.data.index import ImageIndex
from flowmo.training.data.pictures import PictureList
from tests.service.fixtures import checkpoint, inference_model, runner
from tests.service.runners import client_of

__all__ = ["checkpoint", "inference_model", "runner"]
SIDE = 32

Write = Callable[[Image.Image, Path], None]


def exif_turned(photograph: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(path, "JPEG", exif=exif, quality=92)


def sixteen_bit(photograph: Image.Image, path: Path) -> None:
    grey = np.asarray(photograph.convert("L"), np.uint16) * 257
    grey += np.arange(grey.shape[1], dtype=np.uint16) % 128  # low bytes that rounding must see
    Image.fromarray(grey).save(path, "PNG")


def with_alpha(photograph: Image.Image, path: Path) -> None:
    layer = photograph.copy()
    layer.putalpha(Image.linear_gradient("L").resize(photograph.size))
    layer.save(path, "PNG")


def wide_gamut(format: str) -> Write:
    def write(photograph: Image.Image, path: Path) -> None:
        photograph.save(path, format, icc_profile=display_p3())

    return write


def inks(photograph: Image.Image, path: Path) -> None:
    photograph.convert("CMYK").save(path, "JPEG", quality=92)


def large(photograph: Image.Image, path: Path) -> None:
    photograph.resize((photograph.width * 3, photograph.height * 3)).save(path, "JPEG", quality=92)


def plain(format: str) -> Write:
    def write(photograph: Image.Image, path: Path) -> None:
        photograph.save(path, format)

    return write


KINDS: dict[str, tuple[str, Write]] = {
    "plain PNG": (".png", plain("PNG")),
    "Display P3 JPEG": (".jpg", wide_gamut("JPEG")),
    "Display P3 PNG": (".png", wide_gamut("PNG")),
    "16-bit PNG": (".png", sixteen_bit),
    "PNG with alpha": (".png", with_alpha),
    "CMYK JPEG": (".jpg", inks),
    "turned JPEG": (".jpg", exif_turned),
    "large JPEG": (".jpg", large),
    "TIFF": (".tif", plain("TIFF")),
    "GIF": (".gif", plain("GIF")),
    "AVIF": (".avif", plain("AVIF")),
}


@pytest.fixture(params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    suffix, write = KINDS[request.param]
    path = tmp_path / f"picture{suffix}"
    with Image.open(photograph_paths()[1]) as photograph:
        write(photograph.convert("RGB"), path)
    return path


class Watched:
    """A model or a runner whose pictures are kept."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.seen: list[Pixels] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def tokenize(self, images: Tensor) -> list[Tokens]:
        self.seen += list(to_pixels(images))
        return cast("list[Tokens]", self._inner.tokenize(images))

    def encode(self, pixels: Pixels | Tensor) -> Any:
        self.seen += list(to_pixels(pixels) if isinstance(pixels, Tensor) else pixels)
        return self._inner.encode(pixels)


def served(file: Path, runner: Runner) -> Pixels:
    watched, upload = Watched(runner), {"image": file.read_bytes()}

    async def ask() -> None:
        async with client_of(cast("Runner", watched)) as client:
            watched.seen.clear()  # of the warm-up
            answer = await client.post("/v1/tokenize?fit=crop", files=upload)
            assert answer.status_code == 200, answer.text

    asyncio.run(ask())
    return watched.seen[0]


def of_the_command_line(file: Path, inference_model: InferenceModel) -> Pixels:
    watched = Watched(inference_model)
    backend = LocalBackend(cast("InferenceModel", watched), batch_size=1)
    (outcome,) = backend.tokenize([file], fit="crop", overlap=None)
    assert isinstance(outcome.result, bytes), outcome.result
    return watched.seen[0]


def trained_on(file: Path, decoded: Sequence[Pixels | None] | None) -> Pixels:
    index, config = ImageIndex([str(file)]), DataConfig(crop="centre")
    kept = None if decoded is None else list(decoded)
    dataset = CropDataset(index, size=SIDE, config=config, seed=0, decoded=kept)
    return dataset[0].image.permute(1, 2, 0).numpy()


def test_one_file_gives_one_square(
    file: Path, inference_model: InferenceModel, runner: Runner
) -> None:
    expected = served(file, runner)
    assert expected.shape == (SIDE, SIDE, 3)
    index = ImageIndex([str(file)])
    cached = decode_all(index, size=SIDE, config=DataConfig(crop="centre"))
    found = {
        "command line": of_the_command_line(file, inference_model),
        "evaluation": PictureList([str(file)], SIDE).square(0),
        "samples": fixed_images(index, size=SIDE, count=1)[0].permute(1, 2, 0).numpy(),
        "training": trained_on(file, None),
        "training from memory": trained_on(file, cached),
    }
    different = {
        who: int(np.abs(square.astype(int) - expected).max())
        for who, square in found.items()
        if not np.array_equal(square, expected)
    }
    assert different == {}
