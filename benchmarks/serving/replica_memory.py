"""Memory of a replica that keeps both halves of a model, and of one that keeps its own.

    python -m benchmarks.serving.replica_memory CHECKPOINT... --out OUT.json

Each is loaded, and computes one batch of one, in a process of its own, as a replica of ``flowmo
serve --ray`` does it; resident memory (VmRSS) without what an empty process with the same imports
has. ``peak`` is VmHWM: the whole checkpoint is read once to know its fingerprint.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from flowmo.training.json_report import write_json

MEBI = 2**20
KINDS = {"both halves": "encoder,decoder", "encoder": "encoder", "decoder": "decoder"}
_PROCESS = """
import ctypes, gc, sys
import torch
from flowmo.model.loading import load_inference_model

halves = sys.argv[2].split(",") if sys.argv[2] else []
if halves:
    model = load_inference_model(
        sys.argv[1], device="cpu", dtype=sys.argv[3], threads=1, halves=halves
    )
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    config = model.config
    images = torch.zeros(1, 3, config.image_size, config.image_size)
    if "encoder" in halves:
        model.encode(images)
    if "decoder" in halves:
        model.velocity(images, 1.0, torch.zeros(1, config.code_length, config.token_bits + 1))
print(open("/proc/self/status").read())
"""


def resident(checkpoint: str, halves: str, dtype: str) -> tuple[float, float]:
    """Resident memory of a fresh process, now and at most, in MiB.

    Args:
        checkpoint: The checkpoint that it loads.
        halves: What it keeps, separated by commas; nothing is loaded for an empty text.
        dtype: The dtype of the weights.
    """
    command = [sys.executable, "-c", _PROCESS, checkpoint, halves, dtype]
    text = subprocess.run(  # noqa: S603
        command, check=True, capture_output=True, text=True
    ).stdout
    now, most = (re.search(rf"{name}:\s*(\d+) kB", text) for name in ("VmRSS", "VmHWM"))
    assert now is not None and most is not None
    return int(now[1]) * 1024 / MEBI, int(most[1]) * 1024 / MEBI


def measure(checkpoint: str, dtype: str) -> dict[str, Any]:
    """What each kind of process has above one that has loaded nothing, in MiB."""
    empty, _ = resident(checkpoint, "", dtype)
    found: dict[str, Any] = {"process_mib": round(empty, 1)}
    for kind, halves in KINDS.items():
        now, most = resident(checkpoint, halves, dtype)
        found[kind] = {"model_mib": round(now - empty, 1), "peak_mib": round(most - empty, 1)}
    return found


def main(arguments: list[str]) -> None:
    """Measure checkpoints, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {"environment": environment(), "dtype": options.dtype}
    report["checkpoints"] = {}
    for checkpoint in options.checkpoints:
        found = measure(checkpoint, options.dtype)
        report["checkpoints"][Path(checkpoint).name] = found
        print(checkpoint, json.dumps(found), flush=True)
    write_json(options.out, report)


if __name__ == "__main__":
    main(sys.argv[1:])
