"""Memory of a replica that keeps both halves of a model, and of one that keeps its own.

    python -m benchmarks.serving.replica_memory CHECKPOINT... --out OUT.json

Each runner is loaded, and makes one batch of one, in a process of its own, as a replica of
``flowmo serve --ray`` does it; resident memory (VmRSS) without what an empty process with the same
imports has. ``peak`` is VmHWM: the whole checkpoint is read once to know its fingerprint.
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
import sys
import numpy as np
from flowmo.model.tokens import Tokens
from flowmo.service.cluster.memory import give_back_memory
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.loader import load_runner
import flowmo.service.cluster.replicas

halves = sys.argv[2].split(",") if sys.argv[2] else []
if halves:
    config = RunnerConfig(checkpoint=sys.argv[1], device="cpu", threads=1, dtype=sys.argv[3])
    runner = load_runner(config, halves=halves)
    give_back_memory()
    model = runner.info.config
    if "encoder" in halves:
        runner.encode(np.zeros((1, model.image_size, model.image_size, 3), np.uint8))
    if "decoder" in halves:
        ids = np.zeros((model.code_length, model.ids_per_token), np.int32)
        x, condition = runner.begin(Tokens(ids=ids, group_bits=model.group_bits), 0)
        runner.velocity(x[None], [1.0], condition[None])
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
