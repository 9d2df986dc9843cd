"""Labels of the demo data set, and squares of its held-out photographs, for prior-tiny.

    python -m flowmo.training.data.demo --form crops --size 128 --out data/crops
    python -m benchmarks.prior_data data/crops --out data/prior

writes labels.json, the kind of each crop, and held-out/: eight squares of each photograph of the
packages that the demo data set holds out, with held-out.json, their kind. `flowmo
tokenize-dataset` takes both (benchmarks/results/prior-tiny).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowmo.imaging.fit import resize_square

# The sections of training/data/demo/sources.toml. Kinds, because packages are too uneven for
# classes: some have two pictures.
KINDS = {
    "gcompris-qt-data": "lessons",
    "mate-backgrounds": "wallpapers",
    "plasma-workspace-wallpapers": "wallpapers",
    "sddm-theme-maldives": "wallpapers",
    "digikam-data": "wallpapers",
    "dde-account-faces": "avatars",
    "gnome-control-center-data": "avatars",
    "plasma-workspace-data": "avatars",
    "scratch": "scenes",
    "gimp-help-en": "examples",
    "golang-github-disintegration-imaging-dev": "examples",
    "hugin-data": "examples",
    "opencv-doc": "examples",
    "qtdeclarative5-examples": "examples",
    "stellarium-data": "sky",
    "supertuxkart-data": "surfaces",
    "tuxpaint-stamps-default": "cut-outs",
}
HELD_OUT_KIND = "wallpapers"
SQUARES = 8
_SMALLEST = 0.25  # of the shorter side


def labels_of(manifest: dict[str, Any]) -> dict[str, str]:
    """The kind of each crop by its file's name.

    Args:
        manifest: That of a data set of crops.
    """
    pictures = [one["package"] for one in manifest["pictures"]]
    return {
        f"{number:06}.webp": KINDS[pictures[crop[0]]]
        for number, crop in enumerate(manifest["crops"])
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior_data", description=__doc__)
    parser.add_argument("demo", type=Path, help="folder of the demo data set of crops")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--size", type=int, default=128, help="side of the squares, pixels")
    options = parser.parse_args()
    folder = options.out / "held-out"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = json.loads((options.demo / "manifest.json").read_text(encoding="utf-8"))
    (options.out / "labels.json").write_text(json.dumps(labels_of(manifest)), encoding="utf-8")
    kinds = {}
    for place, path in enumerate(sorted((options.demo / "held-out").glob("*.png"))):
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        height, width = pixels.shape[:2]
        generator = np.random.default_rng([0, place])
        for number, share in enumerate(np.linspace(_SMALLEST, 1.0, SQUARES)):
            side = round(share * min(height, width))
            y, x = (int(generator.integers(0, end - side + 1)) for end in (height, width))
            square = resize_square(pixels[y : y + side, x : x + side], options.size)
            name = f"{path.stem}-{number}.png"
            Image.fromarray(square).save(folder / name)
            kinds[name] = HELD_OUT_KIND
    (options.out / "held-out.json").write_text(json.dumps(kinds), encoding="utf-8")


if __name__ == "__main__":
    main()
