"""What it changes that everything reads and resizes pictures in one way.

    python -m benchmarks.pixel_path CHECKPOINT --out benchmarks/results/data/pixel_path.json

Protocol: the sample photographs as squares of the model's size. ``bicubic`` is the filter that
training had, Lanczos the one that all have; PSNR between the two, and of the model's reconstruction
of each, compared with that same square (default sampler, noise of seed 0). ``profile_ignored`` is
the PSNR between a photograph in Display P3 that is converted to sRGB, and one whose profile is
ignored, as training did. ``loading`` is CPU time of one thread from a file's bytes to a random crop
of 256 pixels with either filter, the least of some rounds in turns, which other work on the machine
hardly changes.
"""

import argparse
import io
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageCms

from benchmarks.display_p3 import display_p3
from benchmarks.environment import environment
from benchmarks.reconstruction import reconstruct
from flowmo.imaging.fit import fit_image, plan_fit
from flowmo.imaging.quality import psnr
from flowmo.imaging.reading import Pixels, from_picture, read_image
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.training.config import DataConfig
from flowmo.training.data.held_out import held_out_photographs
from flowmo.training.data.images import augment, decode_image
from flowmo.training.json_report import write_json

_CROP = 256


def bicubic_square(picture: Image.Image, size: int) -> Pixels:
    """The centred square by the filter that is not used any more: uint8 [size, size, 3]."""
    box = plan_fit(*picture.size, size, "crop").source
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def in_display_p3(picture: Image.Image) -> tuple[Image.Image, bytes]:
    """A picture's values in Display P3 without a profile, and a PNG of them with it."""
    srgb = ImageCms.createProfile("sRGB")
    wide = ImageCms.ImageCmsProfile(io.BytesIO(display_p3()))
    values = ImageCms.profileToProfile(picture, srgb, wide, outputMode="RGB")
    assert values is not None, "only in-place conversion returns nothing"
    buffer = io.BytesIO()
    values.save(buffer, "PNG", icc_profile=display_p3())
    del values.info["icc_profile"]  # Pillow attaches it to what it converted
    return values, buffer.getvalue()


def measure(model: InferenceModel) -> dict[str, Any]:
    """PSNR in dB by photograph, and their means."""
    size = model.config.image_size
    pictures = {name: read_image(data).picture for name, data in held_out_photographs().items()}
    lanczos = [fit_image(from_picture(one), size).pixels for one in pictures.values()]
    bicubic = [bicubic_square(one, size) for one in pictures.values()]
    came = {"lanczos": reconstruct(model, lanczos), "bicubic": reconstruct(model, bicubic)}
    rows = {}
    for number, (name, picture) in enumerate(pictures.items()):
        values, file = in_display_p3(picture)
        honoured, ignored = (
            fit_image(one, size).pixels for one in (read_image(file), from_picture(values))
        )
        rows[name] = {
            "bicubic_to_lanczos": psnr(lanczos[number], bicubic[number]),
            "reconstruction_lanczos": psnr(lanczos[number], came["lanczos"][number]),
            "reconstruction_bicubic": psnr(bicubic[number], came["bicubic"][number]),
            "profile_ignored": psnr(honoured, ignored),
        }
    means = {key: fmean(row[key] for row in rows.values()) for key in next(iter(rows.values()))}
    return {"image_size": size, "psnr": means, "photographs": rows}


def photographs_of(width: int, height: int) -> list[bytes]:
    """The sample photographs as JPEGs of a size."""
    files = []
    for data in held_out_photographs().values():
        buffer = io.BytesIO()
        read_image(data).picture.resize((width, height)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def loading(width: int, height: int, *, rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time an image, with either filter."""
    files, config = photographs_of(width, height), DataConfig()
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name in ("LANCZOS", "BICUBIC"):
            with patch("flowmo.imaging.fit.RESAMPLING", Image.Resampling[name]):
                begin = time.process_time()
                for number, data in enumerate(files):
                    generator = np.random.default_rng(number)
                    augment(decode_image(data, _CROP, config), _CROP, config, generator)
                each = (time.process_time() - begin) / len(files)
            key = f"{name.lower()}_cpu_ms"
            least[key] = min(1000 * each, least.get(key, np.inf))
    return least


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixel_path")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20, help="of loading")
    options = parser.parse_args(arguments)
    model = InferenceModel(FlowMo.from_pretrained(options.checkpoint))
    report = {"model": model.config.name, "fingerprint": model.fingerprint, **measure(model)}
    report["loading"] = {
        f"{w} x {h}": loading(w, h, rounds=options.rounds) for w, h in ((500, 375), (3000, 2000))
    }
    write_json(options.out, report | {"environment": environment()})
    for key, value in report["psnr"].items():
        print(f"{key:24}{value:7.2f} dB")
    for size, row in report["loading"].items():
        print(size, {key: round(value, 2) for key, value in row.items()})


if __name__ == "__main__":
    main()
