"""Launches and traffic of a block by every switch, resources of the kernels, and an estimate.

    make gpu-codegen                # in an environment that it makes: torch with CUDA, 5 GB
    python -m benchmarks.generated_code --out OUT [--check COMMITTED]

No GPU is needed, and nothing is launched. It writes OUT/generated_code.json. With --check it
compares with a committed report, and exits with 1 where a block launches or moves more, or a kernel
spills.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.generated_code.estimate import estimates
from benchmarks.generated_code.pretended import pretend
from flowmo.deploy.graphs import HALVES
from flowmo.model.config import preset
from flowmo.model.kernels.choice import Kernels
from flowmo.training.json_report import write_json

SWITCHES = (
    "none",
    "gelu-epilogue",
    "fused-qkv",
    "fused-norm",
    "split-attention",
    "fused-qkv,split-attention",
    "all",
    "fp8-rowwise",
    "all,fp8-rowwise",
)
# Those that are estimated, so counted at each batch size.
ESTIMATED = ("none", "all", "all,fp8-rowwise")
ROWS = (1, 2, 16, 32)
# Rounding in what Inductor says of its kernels.
TOLERANCE = 0.05


def measured(name: str) -> dict[str, Any]:
    """Count every switch at the least batch size, and what is estimated at each."""
    from benchmarks.generated_code.block import block_code
    from benchmarks.generated_code.count import count
    from benchmarks.generated_code.triton_resources import resources

    config = preset(name)
    blocks = []
    for half in HALVES:
        shape = config.encoder if half == "encoder" else config.decoder
        tokens = config.code_length + (config.image_size // config.patch_size) ** 2
        for rows in ROWS:
            for switches in SWITCHES if rows == ROWS[0] else ESTIMATED:
                code = block_code(name, half, rows, Kernels.named(switches))
                counts = count(code, rows=rows, tokens=tokens, width=shape.width)
                entry = {"half": half, "rows": rows, "kernels": switches, **asdict(counts)}
                print(entry)
                blocks.append(entry)
    widths = sorted({config.encoder.width, config.decoder.width})
    return {
        "model": name,
        "blocks": blocks,
        "kernels": [
            {"width": width, **asdict(entry)}
            for width in widths
            for entry in resources(width, config.decoder.heads)
        ],
    }


def worse(report: dict[str, Any], committed: dict[str, Any]) -> list[str]:
    """What launches or moves more than it did, or spills."""
    found = [
        f"{entry['kernel']} at width {entry['width']} spills {entry['spilled']} bytes a thread"
        for entry in report["kernels"]
        if entry["spilled"]
    ]

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return entry["half"], entry["rows"], entry["kernels"]

    before = {key(entry): entry for entry in committed["blocks"]}
    for entry in report["blocks"]:
        if (old := before.get(key(entry))) is None:
            continue
        found += [
            f"{key(entry)}: {entry[what]} {what}, {old[what]} are committed"
            for what in ("launches", "units", "float32_activations")
            if entry[what] > old[what] + TOLERANCE
        ]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, write, and compare; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generated_code")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--model", default="lo")
    parser.add_argument("--check", type=Path, help="a committed report")
    options = parser.parse_args(arguments)
    here = environment()  # before there seems to be a GPU
    pretend()
    report = measured(options.model)
    report["estimates"] = estimates(preset(options.model), report["blocks"])
    report["environment"] = here
    write_json(options.out / "generated_code.json", report)
    found: list[str] = []
    if options.check is not None:
        found = worse(report, json.loads(options.check.read_text(encoding="utf-8")))
        print("\n".join(found) or "no more than what is committed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
