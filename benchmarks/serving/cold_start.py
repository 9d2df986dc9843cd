r"""From the start of ``flowmo serve`` to its readiness: with an empty engine cache, and a filled.

    python -m benchmarks.serving.cold_start checkpoints/tiny --runner compiled --dtype bfloat16 \
        --out benchmarks/results/serving/cold_start.json

Readiness is ``/readyz`` that answers 200: loaded, compared with PyTorch at each batch size, warmed
up. Beside the seconds stand those that processors worked, compilers' included, which tell more on a
machine that others use, too.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.environment import environment
from flowmo.cli.server_process import ServerProcess
from flowmo.training.json_report import write_json


def start(checkpoint: Path, options: Sequence[str], cache: Path, log: Path) -> dict[str, Any]:
    """Start a server, and stop it when it is ready."""
    hidden = ("FLOWMO_", "TORCHINDUCTOR_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    command = [f"--checkpoint={checkpoint}", f"--engine-cache={cache}", "--build-engines", *options]
    before, begin = _worked(), time.monotonic()
    with ServerProcess(command, log=log, environment=kept, start_seconds=900.0) as server:
        seconds = time.monotonic() - begin
        (model,) = httpx.get(f"{server.url}/v1/models", trust_env=False).json()["models"]
    return {
        "ready_seconds": round(seconds, 2),
        # Until it has ended: a process' time is known when it is waited for.
        "processor_seconds": round(_worked() - before, 2),
        "computed_by": model["runner"],
    }


def _worked() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    """Start with an empty cache, then again and again; write the report, print a line a start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.cold_start")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="path of the report")
    parser.add_argument("--runner", default="compiled")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-batch", type=int, help="the service's own by default")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--repeats", type=int, default=3, help="with a filled cache")
    options = parser.parse_args(arguments)
    how = [f"--runner={options.runner}", f"--dtype={options.dtype}"]
    how += [f"--max-batch={options.max_batch}"] if options.max_batch else []
    how += [f"--threads={options.threads}"] if options.threads else []
    starts: dict[str, list[dict[str, Any]]] = {"empty": [], "filled": []}
    with tempfile.TemporaryDirectory() as folder:
        cache, log = Path(folder, "cache"), Path(folder, "log")
        for number in range(1 + options.repeats):
            kind = "filled" if number else "empty"
            starts[kind].append(start(options.checkpoint, how, cache, log))
            print(f"{kind} cache: {starts[kind][-1]}", flush=True)
            size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
            # After each: a run that is cut keeps what it has.
            report = {
                "checkpoint": options.checkpoint.name,
                "options": how,
                "starts": starts,
                "cache_bytes": size,
                "environment": environment(),
            }
            write_json(options.out, report)


if __name__ == "__main__":
    main()
