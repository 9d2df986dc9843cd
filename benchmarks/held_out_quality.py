"""Checkpoints beside codecs on two sets of held-out pictures, in two perceptual distances, too.

    python -m flowmo.training.perceptual.fetch --out networks
    python -m flowmo.training.data.demo --form pictures --size 128 --out data/demo
    python -m benchmarks.held_out_quality checkpoints/tiny --networks networks \
        --pictures data/demo/held-out --out benchmarks/results/tiny/held_out_quality

writes OUT.json, OUT.md (the table) and a picture a set, OUT-SET.png. The sets are the six held-out
photographs, and the folder of --pictures: whole packages of wallpapers that the demo data set holds
out. Protocol of benchmarks.reconstruction: the centred square at the model's size, the model's own
sampler with the noise of seed 0, 8 bits; JPEG and WebP are the best PSNR in as many bytes as the
tokens have. Distances are those of training.perceptual.feature_distance (lower is better), of two
networks; a checkpoint that was trained against one should be judged by the other. The seam is the
mean difference of neighbouring pixels across the borders of patches over that inside them; it is
1 where no grid shows. Codecs' and the originals' are at the borders of the first checkpoint's.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.environment import environment
from benchmarks.reconstruction import CODECS, measure, picture_grid, reconstruct
from flowmo.imaging.fit import read_square
from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.training.data.held_out import held_out_squares
from flowmo.training.evaluation.codecs import best_codec
from flowmo.training.json_report import write_json
from flowmo.training.perceptual.feature_distance import FeatureDistance
from flowmo.training.perceptual.fetch import EFFICIENTNET_LITE0, VGG_EDGE
from flowmo.training.perceptual.losses import feature_distance

_COLUMNS = ("psnr", "ssim", "vgg_edge", "efficientnet_lite0", "seam")
_HEADINGS = ("PSNR, dB", "SSIM", "VGG-edge distance", "EfficientNet-Lite0 distance", "seam")


class Came(NamedTuple):
    """What a method made of all pictures of a set, and of how many bytes each."""

    pictures: list[Pixels]
    sizes: list[int | None]


def seam(pictures: Sequence[Pixels], patch: int) -> float:
    """Mean difference of neighbours across patches' borders over that inside patches.

    Args:
        pictures: Each uint8 [S, S, 3], S a multiple of ``patch``.
        patch: Side of a patch in pixels.

    Returns:
        The ratio over all pictures; 1 where no grid shows.
    """
    across, inside = [], []
    for picture in pictures:
        levels = picture.astype(np.float64)
        for axis in (0, 1):
            steps = np.abs(np.diff(levels, axis=axis)).mean(axis=(1 - axis, 2))
            border = (np.arange(len(steps)) + 1) % patch == 0
            across.append(steps[border].mean())
            inside.append(steps[~border].mean())
    return float(np.sum(across) / np.sum(inside))


def distances(
    network: FeatureDistance, originals: Sequence[Pixels], came: Sequence[Pixels]
) -> list[float]:
    """The distance of each pair of pictures."""
    with torch.inference_mode():
        return [
            network.pairs(to_images([a]), to_images([b])).item()
            for a, b in zip(originals, came, strict=True)
        ]


def methods(
    models: Mapping[str, InferenceModel], originals: Sequence[Pixels], budget: int
) -> dict[str, Came]:
    """What each checkpoint and each codec makes of a set's pictures.

    Args:
        models: The checkpoints by name.
        originals: uint8 [S, S, 3] each, S the models' image size.
        budget: The most bytes a picture that codecs may use.
    """
    came = {}
    for name, model in models.items():
        count = len(originals)
        came[name] = Came(reconstruct(model, originals), [model.config.payload_bytes] * count)
    for codec in CODECS:
        found = [best_codec(original, codec, budget) for original in originals]
        fits = [one for one in found if one is not None]
        if len(fits) == len(found):
            came[codec.lower()] = Came([one[0] for one in fits], [one[1] for one in fits])
    return came


def judge(
    originals: Mapping[str, Pixels],
    came: Mapping[str, Came],
    networks: Mapping[str, FeatureDistance],
    patches: Mapping[str, int],
    patch: int,
) -> dict[str, dict[str, Any]]:
    """Means over a set and each picture's figures, by method.

    Args:
        originals: The pictures of the set by name.
        came: What each method made of them.
        networks: The distances by name.
        patches: Patch sizes of the methods that have one.
        patch: The patch size at which the others are judged.
    """
    result: dict[str, dict[str, Any]] = {}
    truth = list(originals.values())
    for method, (pictures, sizes) in came.items():
        rows = [measure(*each) for each in zip(truth, pictures, sizes, strict=True)]
        columns: dict[str, list[float]] = {
            "psnr": [row.psnr for row in rows],
            "ssim": [row.ssim for row in rows],
            **{name: distances(network, truth, pictures) for name, network in networks.items()},
        }
        side = patches.get(method, patch)
        result[method] = {
            **{name: round(float(np.mean(values)), 4) for name, values in columns.items()},
            "seam": round(seam(pictures, side), 4),
            "patch": side,
            "bytes": max(size or 0 for size in sizes),
            "pictures": {
                name: {column: round(values[i], 4) for column, values in columns.items()}
                for i, name in enumerate(originals)
            },
        }
    result["original"] = {"seam": round(seam(truth, patch), 4), "patch": patch}
    return result


def table(sets: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The means as a table in Markdown, a row a set and method."""
    lines = [
        "| set | method | bytes | " + " | ".join(_HEADINGS) + " |",
        "|---|---|" + "---|" * (1 + len(_HEADINGS)),
    ]
    for name, rows in sets.items():
        for method, row in rows.items():
            digits = {"psnr": 2}
            cells = [
                f"{row[column]:.{digits.get(column, 3)}f}" if column in row else ""
                for column in _COLUMNS
            ]
            lines.append(f"| {name} | {method} | {row.get('bytes', '')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def squares(folder: Path, side: int) -> dict[str, Pixels]:
    """Centred squares of a folder's pictures, by name.

    Raises:
        SystemExit: there are none.
    """
    found = {}
    for path in sorted(folder.glob("*.png")):
        found[path.stem] = read_square(path.read_bytes(), side)
    if not found:
        raise SystemExit(
            f"{folder} has no PNG files; `python -m flowmo.training.data.demo` writes the held-out "
            "pictures to the folder held-out of its data set"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.held_out_quality")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="model folders, one image size")
    parser.add_argument("--networks", type=Path, required=True, help="folder of the fetched ones")
    parser.add_argument("--pictures", type=Path, help="folder of held-out wallpapers")
    parser.add_argument("--out", type=Path, required=True, help="path of the report, no suffix")
    options = parser.parse_args(arguments)
    models = {
        str(path): InferenceModel(FlowMo.from_pretrained(path)) for path in options.checkpoints
    }
    first = next(iter(models.values())).config
    side = first.image_size
    if any(model.config.image_size != side for model in models.values()):
        parser.error("the checkpoints' image sizes differ; compare one size at a time")
    networks = {
        "vgg_edge": feature_distance("vgg-edge", str(options.networks / VGG_EDGE)),
        "efficientnet_lite0": feature_distance(
            "efficientnet-lite0", str(options.networks / EFFICIENTNET_LITE0)
        ),
    }
    sets = {
        "photographs": {Path(name).stem: square for name, square in held_out_squares(side).items()}
    }
    if options.pictures is not None:
        sets["wallpapers"] = squares(options.pictures, side)
    patches = {name: model.config.patch_size for name, model in models.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    judged = {}
    for name, originals in sets.items():
        came = methods(models, list(originals.values()), first.payload_bytes)
        judged[name] = judge(originals, came, networks, patches, first.patch_size)
        _draw(originals, came, options.out.with_name(f"{options.out.name}-{name}.png"))
    report = {
        "models": {
            name: {
                "fingerprint": model.fingerprint,
                "image_size": side,
                "token_bytes": model.config.payload_bytes,
                "sampler": model.config.sampler.to_dict(),
            }
            for name, model in models.items()
        },
        "sets": judged,
        "environment": environment(),
    }
    write_json(options.out.with_suffix(".json"), report)
    text = table(judged)
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="")


def _draw(originals: Mapping[str, Pixels], came: Mapping[str, Came], path: Path) -> None:
    """Originals and what came of them, a row a method."""
    pictures, qualities = {}, {}
    for i, (name, original) in enumerate(originals.items()):
        shown = {method: (each.pictures[i], each.sizes[i]) for method, each in came.items()}
        pictures[name] = [
            ("original", original),
            *((Path(method).name, pixels) for method, (pixels, _) in shown.items()),
        ]
        qualities[name] = {
            Path(method).name: measure(original, pixels, size)
            for method, (pixels, size) in shown.items()
        }
    picture_grid(pictures, qualities).save(path, optimize=True)


if __name__ == "__main__":
    main()
