"""Seconds and peak memory of a picture there and back, against its megapixels.

    python -m benchmarks.megapixels [--checkpoint NAME] [--megapixels N ...] [--steps N]

Each size is measured in a process of its own, so that its peak is its own: resident memory less
what was resident when the model had been loaded and had made one square. The report is
``benchmarks/results/native/megapixels.json``; both columns grow linearly.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import flowmo
from benchmarks.environment import environment
from flowmo.photographs import photograph_paths
from flowmo.training.json_report import write_json

REPORT = Path(__file__).parent / "results" / "native" / "megapixels.json"
SIZES = (0.25, 1.0, 2.0, 4.0)
ASPECT = 3 / 2


def resident_peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(checkpoint: str, megapixels: float, steps: int) -> dict[str, Any]:
    """One size, in this process."""
    tok = flowmo.load(checkpoint, device="cpu")
    side = tok.image_size
    tok.reconstruct(np.zeros((side, side, 3), np.uint8), steps=1)
    before = resident_peak()
    height = math.isqrt(round(megapixels * 1e6 / ASPECT))
    width = round(height * ASPECT)
    with Image.open(next(p for p in photograph_paths() if p.name == "china.jpg")) as photograph:
        pixels = np.asarray(photograph.convert("RGB").resize((width, height)))
    begin = time.perf_counter()
    tokens = tok.encode(pixels)
    encoded = time.perf_counter()
    picture = tok.decode(tokens, steps=steps, output="array")
    decoded = time.perf_counter()
    assert picture.shape == pixels.shape
    return {
        "megapixels": round(width * height / 1e6, 3),
        "tiles": tokens.tile_count,
        "token_bytes": tokens.payload_bytes,
        "encode_seconds": round(encoded - begin, 2),
        "decode_seconds": round(decoded - encoded, 2),
        "peak_mb_beside_the_model": round(resident_peak() - before, 1),
    }


def main() -> None:
    """Measure every size in a process of its own, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--megapixels", type=float, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.checkpoint, options.megapixels[0], options.steps)))
        return
    rows = []
    for size in options.megapixels:
        command = [
            sys.executable,
            "-m",
            "benchmarks.megapixels",
            "--one",
            "--megapixels",
            str(size),
        ]
        command += ["--checkpoint", options.checkpoint, "--steps", str(options.steps)]
        done = subprocess.run(  # noqa: S603  (this very module)
            command, check=True, capture_output=True, text=True
        )
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python -m benchmarks.megapixels",
        "checkpoint": options.checkpoint,
        "steps": options.steps,
        "environment": environment(),
        "rows": rows,
    }
    write_json(options.out, report)


if __name__ == "__main__":
    main()
