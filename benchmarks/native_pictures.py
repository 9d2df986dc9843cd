"""Pictures of 128, 512 and 1500 pixels as they are, beside JPEG and WebP of equal bytes.

    python -m benchmarks.native_pictures [--checkpoint NAME]

writes ``docs/images/native.webp`` (at most 300 kB) and
``benchmarks/results/native/pictures.json``. The pictures are made of the six held-out photographs:
one of them at 128 x 128, the same one at its own 512 x 512, and all six at their own resolution
side by side, 1500 x 727. Tokens are of the default fit and overlap, the sampler is the model's own,
the noise that of seed 0. Codecs have as many bytes as the tokens, tiles x bytes a tile: the best
PSNR over qualities and over shrinking the picture first (:mod:`flowmo.training.evaluation.codecs`).
"""

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import flowmo
from benchmarks.environment import environment
from flowmo.imaging.fit import resize_square
from flowmo.imaging.quality import psnr
from flowmo.imaging.reading import Pixels, read_image
from flowmo.training.data.held_out import held_out_photographs
from flowmo.training.evaluation.codecs import best_codec
from flowmo.training.json_report import write_json

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "benchmarks" / "results" / "native" / "pictures.json"
SHEET = ROOT / "docs" / "images" / "native.webp"
MOST_BYTES = 300_000
_COLUMN, _MARGIN, _CAPTION = 384, 8, 20
# At their own resolution: height of each row, and name and width of what stands in it.
_ROWS = (
    (427, (("china.jpg", 500), ("flower.jpg", 500), ("rocket.jpg", 500))),
    (300, (("coffee.png", 549), ("astronaut.png", 500), ("chelsea.png", 451))),
)
# A detail of the large picture at one pixel a pixel: left and top.
_DETAIL = (116, 180)
_DETAIL_HEIGHT = 256


class Came(NamedTuple):
    """What one method made of a picture, and of how many bytes."""

    pixels: Pixels
    size: int | None


def side_by_side(photographs: Mapping[str, Pixels]) -> Pixels:
    """All photographs cut in their middle and laid out in two rows, uint8 [727, 1500, 3]."""
    rows = []
    for height, cells in _ROWS:
        row = []
        for name, width in cells:
            pixels = photographs[name]
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            row.append(pixels[top : top + height, left : left + width])
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


def originals() -> dict[str, Pixels]:
    """The pictures by what they are called in the report."""
    photographs = {name: read_image(data).pixels for name, data in held_out_photographs().items()}
    own = photographs["astronaut.png"]
    return {
        "128": resize_square(own, 128),
        "512": own,
        "1500": side_by_side(photographs),
    }


def measure(tok: flowmo.Tokenizer, original: Pixels) -> tuple[dict[str, Any], dict[str, Came]]:
    """A picture's figures, and what each method made of it."""
    tokens = tok.encode(original)
    came = {
        "original": Came(original, None),
        tok.config.name: Came(tok.decode(tokens, seeds=0, output="array"), tokens.payload_bytes),
    }
    for codec in ("JPEG", "WEBP"):
        if (found := best_codec(original, codec, tokens.payload_bytes)) is not None:
            came[codec] = Came(*found)
    height, width, _ = original.shape
    figures = {
        "width": width,
        "height": height,
        "tiles": tokens.tile_count,
        "token_bytes": tokens.payload_bytes,
        "bits_a_pixel": round(8 * tokens.payload_bytes / (width * height), 4),
        "methods": {
            name: {"bytes": one.size, "psnr": round(psnr(original, one.pixels), 3)}
            for name, one in came.items()
            if name != "original"
        },
    }
    return figures, came


def sheet(rows: Mapping[str, Mapping[str, Came]]) -> Image.Image:
    """A row a picture, a column a method; of the largest a row more, with a detail."""
    shown: list[tuple[str, str, Image.Image]] = []
    for label, methods in rows.items():
        for name, one in methods.items():
            picture = Image.fromarray(one.pixels)
            # Small ones at whole multiples, so that pixels stay squares.
            factor = _COLUMN // picture.width or _COLUMN / picture.width
            size = round(picture.width * factor), round(picture.height * factor)
            kind = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
            shown.append((label, _caption(label, name, one, rows), picture.resize(size, kind)))
    largest, methods = list(rows.items())[-1]
    left, top = _DETAIL
    for name, one in methods.items():
        cut = one.pixels[top : top + _DETAIL_HEIGHT, left : left + _COLUMN]
        shown.append(
            (f"{largest}, detail", f"{name}, detail, pixel by pixel", Image.fromarray(cut))
        )
    labels = list(dict.fromkeys(label for label, _, _ in shown))
    heights = {
        label: max(picture.height for own, _, picture in shown if own == label) for label in labels
    }
    columns = max(len(methods) for methods in rows.values())
    canvas = Image.new(
        "RGB",
        (
            _MARGIN + columns * (_COLUMN + _MARGIN),
            _MARGIN + sum(height + _CAPTION for height in heights.values()),
        ),
        "white",
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    y = _MARGIN
    for label in labels:
        x = _MARGIN
        for _, caption, picture in (one for one in shown if one[0] == label):
            canvas.paste(picture, (x, y))
            draw.text((x, y + heights[label] + 1), caption, fill="black", font=font)
            x += _COLUMN + _MARGIN
        y += heights[label] + _CAPTION
    return canvas


def _caption(label: str, name: str, one: Came, rows: Mapping[str, Mapping[str, Came]]) -> str:
    original = rows[label]["original"].pixels
    if one.size is None:
        return f"original, {original.shape[1]} x {original.shape[0]}"
    return f"{name}, {one.size:,} bytes, {psnr(original, one.pixels):.1f} dB"


def as_webp(picture: Image.Image, most: int = MOST_BYTES) -> bytes:
    """The picture as WebP of the best quality that takes at most so many bytes."""
    data = b""
    for quality in range(90, 0, -5):
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=6)
        data = buffer.getvalue()
        if len(data) <= most:
            break
    return data


def main() -> None:
    """Measure, and write the report and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--picture", type=Path, default=SHEET)
    options = parser.parse_args()
    tok = flowmo.load(options.checkpoint, device="cpu")
    figures: dict[str, Any] = {}
    rows: dict[str, dict[str, Came]] = {}
    for label, original in originals().items():
        figures[label], rows[label] = measure(tok, original)
        print(label, figures[label], flush=True)
    report = {
        "command": "python -m benchmarks.native_pictures",
        "model": {"name": tok.config.name, "fingerprint": tok.fingerprint},
        "sampler": tok.config.sampler.to_dict(),
        "environment": environment(),
        "pictures": figures,
    }
    write_json(options.out, report)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    options.picture.write_bytes(as_webp(sheet(rows)))


if __name__ == "__main__":
    main()
