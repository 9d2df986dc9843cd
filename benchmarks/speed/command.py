"""The command line that decode_speed and encode_speed share."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment
from benchmarks.speed.measure import measure, table
from benchmarks.speed.variants import PLAIN, available, names, outside, subject
from flowmo.deploy.graphs import Half
from flowmo.training.json_report import write_json

_BATCHES = {"decoder": [1, 2, 4, 8], "encoder": [1, 4, 16]}


def run(half: Half, arguments: Sequence[str] | None = None) -> None:
    """Measure a half as the command line says, write OUT.json and OUT.png, print the table."""
    name = "decode_speed" if half == "decoder" else "encode_speed"
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("models", nargs="+", help="checkpoint folders, or presets (random weights)")
    parser.add_argument("--out", type=Path, required=True, help="path of the report, no suffix")
    parser.add_argument("--batches", type=numbers, default=_BATCHES[half], help="as 1,2,4")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--variants", type=_words, help="as 'serving bf16,compiled bf16'")
    parser.add_argument(
        "--baseline", help="module:function of an outside implementation (benchmarks/speed)"
    )
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    # Float32 is float32, whatever a GPU's default is.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    records: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    device = torch.device(options.device)
    wanted = options.variants or names(cuda=device.type == "cuda")
    for model in options.models:
        with ExitStack() as stack:
            measured = subject(model, device, stack)
            found, refused = available(
                [PLAIN, *(name for name in wanted if name != PLAIN)], measured, options.batches
            )
            missing |= refused
            if options.baseline:
                found[options.baseline] = outside(options.baseline, measured)
            for rows in options.batches:
                print(f"{model}, {rows} rows", file=sys.stderr, flush=True)
                measurements = measure(measured, half, found, rows=rows, rounds=options.rounds)
                model_name = measured.network.config.name
                records.extend({"model": model_name, **record} for record in measurements)
    for variant, why in missing.items():
        print(f"left out: {variant}: {why}", file=sys.stderr)
    report = {"records": records, "left_out": missing, "environment": environment()}
    write_json(options.out.with_suffix(".json"), report)
    draw(records, options.out.with_suffix(".png"))
    for model_name in dict.fromkeys(record["model"] for record in records):
        print(f"\n{model_name}\n")
        print(table([record for record in records if record["model"] == model_name]))


def draw(records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Times the plain network's speed, a group of bars a model and batch size."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys((r["model"], r["rows"]) for r in records))
    variants = list(dict.fromkeys(r["variant"] for r in records))
    figure, axis = plt.subplots(figsize=(3 + max(5, 1.3 * len(groups)), 3.4))
    width = 0.85 / len(variants)
    for place, variant in enumerate(variants):
        found = {(r["model"], r["rows"]): r["speedup"] for r in records if r["variant"] == variant}
        heights = [found.get(group, 0.0) for group in groups]
        at = [number + place * width for number in range(len(groups))]
        axis.bar(at, heights, width=width * 0.9, label=variant)
    axis.set_xticks(
        [number + 0.4 for number in range(len(groups))],
        [f"{model}\n{rows} {'row' if rows == 1 else 'rows'}" for model, rows in groups],
        fontsize=8,
    )
    axis.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    axis.set_ylabel("times the plain network's speed")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def numbers(text: str) -> list[int]:
    """``1,2,4`` of a command line."""
    return [int(word) for word in text.split(",")]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]
