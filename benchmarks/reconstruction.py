"""How well a checkpoint reconstructs photographs that it was never trained on.

    python -m benchmarks.reconstruction CHECKPOINT --out benchmarks/results/reconstruction

writes OUT.json and OUT.png. Protocol: each photograph is cut to its largest centred square and
resized to the model's size (Lanczos); the model's own default sampler, the noise of seed 0; results
rounded to 8 bits; PSNR over all values of an image, SSIM with the usual 11-pixel Gaussian window,
both then averaged over the images. Beside it stand the mean colour of each image, and JPEG and
WebP in at most as many bytes as the tokens have: the best PSNR over all qualities and over
shrinking the picture first, since neither codec reaches such sizes at full resolution.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.environment import environment
from flowmo.imaging.fit import read_square
from flowmo.imaging.quality import psnr
from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import as_levels, to_images, to_pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.training.data.held_out import held_out_squares
from flowmo.training.evaluation.codecs import best_codec
from flowmo.training.evaluation.methods import mean_colour

CODECS = ("JPEG", "WEBP")
_MARGIN, _CAPTION = 8, 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Of one picture; ``size`` is in bytes, None for what is not a file."""

    psnr: float
    ssim: float
    size: int | None


def measure(original: Pixels, came: Pixels, size: int | None) -> Quality:
    """PSNR and SSIM of 8-bit pictures."""
    # Here, because it is slow to import and not needed by the other functions.
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (as_levels([picture]).double() for picture in (original, came))
    ssim = structural_similarity_index_measure(a, b, data_range=255.0)
    assert isinstance(ssim, torch.Tensor)
    return Quality(psnr=psnr(original, came), ssim=ssim.item(), size=size)


def reconstruct(
    model: InferenceModel, originals: Sequence[Pixels], sampler: SamplerConfig | None = None
) -> list[Pixels]:
    """Through tokens and back, each with the noise of seed 0; the model's sampler by default."""
    tokens = model.tokenize(to_images(originals))
    return list(to_pixels(model.detokenize(tokens, seeds=[0] * len(originals), sampler=sampler)))


def evaluate(
    model: InferenceModel, originals: Mapping[str, Pixels]
) -> tuple[dict[str, dict[str, Quality]], dict[str, list[tuple[str, Pixels]]]]:
    """Qualities and pictures by photograph and method."""
    budget = model.config.payload_bytes
    qualities: dict[str, dict[str, Quality]] = {}
    pictures: dict[str, list[tuple[str, Pixels]]] = {}
    reconstructions = reconstruct(model, list(originals.values()))
    for (name, original), ours in zip(originals.items(), reconstructions, strict=True):
        results: dict[str, tuple[Pixels, int | None]] = {
            "flowmo": (ours, budget),
            "mean_colour": (mean_colour(original), None),
        }
        for codec in CODECS:
            if (found := best_codec(original, codec, budget)) is not None:
                results[codec.lower()] = found
        qualities[name] = {
            method: measure(original, came, size) for method, (came, size) in results.items()
        }
        pictures[name] = [
            ("original", original),
            *((method, came) for method, (came, _) in results.items() if method != "mean_colour"),
        ]
    return qualities, pictures


def averages(qualities: dict[str, dict[str, Quality]]) -> dict[str, dict[str, float]]:
    """Mean PSNR and SSIM by method, over the photographs that have it."""

    def mean(method: str, value: Callable[[Quality], float]) -> float:
        values = [value(row[method]) for row in qualities.values() if method in row]
        return round(sum(values) / len(values), 4)

    methods = {method for row in qualities.values() for method in row}
    return {
        m: {"psnr": mean(m, lambda q: q.psnr), "ssim": mean(m, lambda q: q.ssim)}
        for m in sorted(methods)
    }


def picture_grid(
    pictures: dict[str, list[tuple[str, Pixels]]], qualities: dict[str, dict[str, Quality]]
) -> Image.Image:
    """A row a method, a column a photograph, PSNR and bytes below each."""
    columns = list(pictures.items())
    side = len(columns[0][1][0][1])
    rows = max(len(shown) for _, shown in columns)
    across, down = side + _MARGIN, side + _CAPTION
    sheet = Image.new("RGB", (_MARGIN + across * len(columns), _MARGIN + down * rows), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for column, (name, shown) in enumerate(columns):
        for row, (method, pixels) in enumerate(shown):
            left, top = _MARGIN + across * column, _MARGIN + down * row
            sheet.paste(Image.fromarray(pixels), (left, top))
            quality = qualities[name].get(method)
            caption = (
                name if quality is None else f"{method} {quality.psnr:.1f} dB {quality.size} B"
            )
            draw.text((left, top + side + 2), caption, fill="black", font=font)
    return sheet


def write_report(checkpoint: Path, out: Path, *, paths: Sequence[Path] | None = None) -> None:
    """Evaluate a checkpoint and write OUT.json and OUT.png.

    Args:
        checkpoint: model folder.
        out: path without suffix; its folder is made.
        paths: photographs; the held-out ones by default.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = InferenceModel(FlowMo.from_pretrained(checkpoint), device=device)
    side = model.config.image_size
    squares = (
        {path.name: read_square(path.read_bytes(), side) for path in paths}
        if paths
        else held_out_squares(side)
    )
    originals = {Path(name).stem: square for name, square in squares.items()}
    qualities, pictures = evaluate(model, originals)
    report = {
        "model": model.config.name,
        "fingerprint": model.fingerprint,
        "image_size": model.config.image_size,
        "token_bytes": model.config.payload_bytes,
        "sampler": model.config.sampler.to_dict(),
        "averages": averages(qualities),
        "photographs": {
            name: {method: asdict(quality) for method, quality in row.items()}
            for name, row in qualities.items()
        },
        "environment": environment(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    picture_grid(pictures, qualities).save(out.with_suffix(".png"), optimize=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconstruction")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="path of the report, no suffix")
    parser.add_argument("photographs", type=Path, nargs="*", help="default: the held-out ones")
    arguments = parser.parse_args()
    write_report(arguments.checkpoint, arguments.out, paths=arguments.photographs or None)
    report = json.loads(arguments.out.with_suffix(".json").read_text(encoding="utf-8"))
    for method, values in report["averages"].items():
        print(f"{method:12} PSNR {values['psnr']:6.2f} dB   SSIM {values['ssim']:.3f}")


if __name__ == "__main__":
    main()
