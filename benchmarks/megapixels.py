"""Seconds and peak memory of a picture there and back, against its megapixels.

    python -m benchmarks.megapixels [--checkpoint NAME] [--megapixels N ...] [--steps N]

Each size is measured in a process of its own, so that its peak is its own: resident memory less
what was resident when the model had been loaded and had made one square. The largest one goes
through a real server, too, as JPEG there and JPEG back, beside which the same is measured. The
report is ``benchmarks/results/native/megapixels.json``; seconds and memory grow linearly.
``--checkpoint one-layer`` is a random network of the demo model's tiles and tokens, one narrow
layer deep: what pictures cost beside the network, in a minute.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

import flowmo
from benchmarks.environment import environment
from flowmo.cli.server_process import ServerProcess
from flowmo.imaging.reading import Pixels, read_image
from flowmo.imaging.writing import encode_image
from flowmo.model.config import TransformerConfig
from flowmo.model.container import MEDIA_TYPE
from flowmo.model.flowmo import FlowMo
from flowmo.photographs import photograph_paths
from flowmo.training.json_report import write_json

REPORT = Path(__file__).parent / "results" / "native" / "megapixels.json"
SIZES = (0.25, 1.0, 4.0, 24.0)
ASPECT = 3 / 2


def resident_peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def picture(megapixels: float) -> Pixels:
    """A photograph, enlarged to so many pixels at 3 : 2."""
    height = round(math.sqrt(megapixels * 1e6 / ASPECT))
    width = round(height * ASPECT)
    with Image.open(next(p for p in photograph_paths() if p.name == "china.jpg")) as photograph:
        return np.asarray(photograph.convert("RGB").resize((width, height)))


def through_a_server(checkpoint: str, megapixels: float, steps: int, log: Path) -> dict[str, Any]:
    """One size through a real server on this machine, over HTTP."""
    pixels = picture(megapixels)
    arguments = [f"--checkpoint={checkpoint}", "--device=cpu", "--threads=1", "--cache-bytes=0"]
    with (
        ServerProcess(arguments, log=log) as server,
        httpx.Client(base_url=server.url, timeout=3600) as http,
    ):

        def there_and_back(image: Pixels) -> tuple[httpx.Response, httpx.Response, float]:
            begin = time.perf_counter()
            sent = {"Content-Type": "image/jpeg", "Accept": MEDIA_TYPE}
            packed = http.post(
                "/v1/tokenize", content=encode_image(image, "jpeg", quality=90), headers=sent
            ).raise_for_status()
            encoded = time.perf_counter() - begin
            sent = {"Content-Type": MEDIA_TYPE, "Accept": "image/jpeg"}
            back = http.post(
                "/v1/detokenize", params={"steps": steps}, content=packed.content, headers=sent
            ).raise_for_status()
            return packed, back, encoded

        there_and_back(picture(0.01))
        before = peak_of(server.pid)
        begin = time.perf_counter()
        packed, back, encoded = there_and_back(pixels)
        seconds = time.perf_counter() - begin
        assert read_image(back.content).pixels.shape == pixels.shape
        return {
            "megapixels": round(pixels.shape[0] * pixels.shape[1] / 1e6, 3),
            "tiles": int(packed.headers["Flowmo-Tiles"]),
            "token_bytes": int(packed.headers["Flowmo-Token-Bytes"]),
            "tokenize_seconds": round(encoded, 2),
            "detokenize_seconds": round(seconds - encoded, 2),
            "peak_mb_beside_the_model": round(peak_of(server.pid) - before, 1),
        }


def peak_of(process: int) -> float:
    """The most memory that a process and its children have had, added up, in MB."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has ended meanwhile
            continue
        if process in (int(lines["Pid"]), int(lines["PPid"])) and "VmHWM" in lines:
            total += int(lines["VmHWM"].split()[0]) / 1024
    return total


def measure(checkpoint: str, megapixels: float, steps: int) -> dict[str, Any]:
    """One size, in this process."""
    tok = flowmo.load(checkpoint, device="cpu")
    side = tok.image_size
    tok.reconstruct(np.zeros((side, side, 3), np.uint8), steps=1)
    before = resident_peak()
    pixels = picture(megapixels)
    height, width, _ = pixels.shape
    begin = time.perf_counter()
    tokens = tok.encode(pixels)
    encoded = time.perf_counter()
    made = tok.decode(tokens, steps=steps, output="array")
    decoded = time.perf_counter()
    assert made.shape == pixels.shape
    return {
        "megapixels": round(width * height / 1e6, 3),
        "tiles": tokens.tile_count,
        "token_bytes": tokens.payload_bytes,
        "encode_seconds": round(encoded - begin, 2),
        "decode_seconds": round(decoded - encoded, 2),
        "peak_mb_beside_the_model": round(resident_peak() - before, 1),
    }


def one_layer(folder: Path) -> Path:
    """A checkpoint whose network costs next to nothing."""
    demo = flowmo.load("tiny", device="cpu").config
    shape = TransformerConfig(width=32, depth=1, heads=2)
    torch.manual_seed(0)
    FlowMo(replace(demo, name="one-layer", encoder=shape, decoder=shape)).save_pretrained(folder)
    return folder


def main() -> None:
    """Measure every size in a process of its own, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--megapixels", type=float, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--no-server", action="store_true", help="leave the server out")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.checkpoint, options.megapixels[0], options.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_report(options, Path(folder))


def write_report(options: argparse.Namespace, folder: Path) -> None:
    """Measure what was asked for; ``folder`` is for files that are not kept."""
    checkpoint = options.checkpoint
    if checkpoint == "one-layer":
        checkpoint = str(one_layer(folder))
    rows: list[Any] = []
    report: dict[str, Any] = {
        "command": f"python -m benchmarks.megapixels --checkpoint {options.checkpoint} "
        f"--megapixels {' '.join(f'{size:g}' for size in options.megapixels)}",
        "checkpoint": options.checkpoint,
        "steps": options.steps,
        "environment": environment(),
        "rows": rows,
    }
    for size in options.megapixels:
        command = [
            sys.executable,
            "-m",
            "benchmarks.megapixels",
            "--one",
            "--megapixels",
            str(size),
        ]
        command += ["--checkpoint", checkpoint, "--steps", str(options.steps)]
        done = subprocess.run(  # noqa: S603  (this very module)
            command, check=True, capture_output=True, text=True
        )
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
        write_json(options.out, report)  # what a stop leaves is of use
    if not options.no_server:
        log, largest = folder / "server.log", max(options.megapixels)
        report["server"] = through_a_server(checkpoint, largest, options.steps, log)
        print(json.dumps(report["server"]), flush=True)
        write_json(options.out, report)


if __name__ == "__main__":
    main()
