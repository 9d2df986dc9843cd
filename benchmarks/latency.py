"""Seconds that one photograph takes, from pixels to tokens to pixels, by number of steps.

    python -m benchmarks.latency CHECKPOINT --threads 2 --out OUT.json

Protocol: a held-out photograph as 256 x 256 pixels, resized to the model's size inside the timed
part; batch 1; one untimed run before each setting; the median and the range of the rest. Times
compare within one run only, so the report also gives each as a ratio to the default sampler's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.reconstruction import reconstruct
from flowmo.imaging.fit import resize_square
from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.training.data.held_out import held_out_squares

PHOTOGRAPH, SIDE = "astronaut.png", 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Of one setting; ``seconds`` is the median."""

    steps: int
    guidance: float
    seconds: float
    fastest: float
    slowest: float


def time_reconstruction(
    model: InferenceModel, picture: Pixels, repeats: int, sampler: SamplerConfig
) -> list[float]:
    """Seconds of each repetition, resizing included.

    Raises:
        ValueError: fewer than one repetition.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        reconstruct(model, [resize_square(picture, model.config.image_size)], sampler)
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def measure_latency(model: InferenceModel, steps: Sequence[int], repeats: int) -> dict[str, Row]:
    """Seconds of the default sampler and of others with so many steps.

    Args:
        model: on any device; results are on the CPU when a repetition ends.
        steps: of the settings beside the default; guidance is off in all of these.
        repeats: timed runs of each setting.
    """
    picture = held_out_squares(SIDE)[PHOTOGRAPH]
    default = model.config.sampler
    settings = {"default": default} | {
        f"{count}_steps": replace(default, steps=count, guidance=1.0) for count in steps
    }
    rows: dict[str, Row] = {}
    for name, sampler in settings.items():
        seconds = time_reconstruction(model, picture, repeats, sampler)
        rows[name] = Row(
            steps=sampler.steps,
            guidance=sampler.guidance,
            seconds=statistics.median(seconds),
            fastest=min(seconds),
            slowest=max(seconds),
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, write and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="path of the JSON report")
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 4, 8, 25])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--threads", type=int, help="of torch on the CPU; its own choice by default"
    )
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = InferenceModel(FlowMo.from_pretrained(options.checkpoint), device=device)
    rows = measure_latency(model, options.steps, options.repeats)
    report = {
        "model": model.config.name,
        "fingerprint": model.fingerprint,
        "photograph": f"{PHOTOGRAPH}, {SIDE} x {SIDE}",
        "repeats": options.repeats,
        "reconstruction": {
            name: asdict(row) | {"ratio": row.seconds / rows["default"].seconds}
            for name, row in rows.items()
        },
        "environment": environment(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, row in rows.items():
        print(f"{name:10} {row.seconds:.3f} s ({row.fastest:.3f} to {row.slowest:.3f})")


if __name__ == "__main__":
    main()
