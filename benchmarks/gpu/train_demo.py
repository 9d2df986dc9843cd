"""Train the demo checkpoint, in one call or in several that each end in time.

    python -m training.demo_data --out DATA --size 160
    python -m benchmarks.gpu.train_demo --data 'DATA/*.tar' --run RUN --out OUT \
        --minutes 18 --call-minutes 9

Calling it again continues the run in RUN exactly. Once the budget of --minutes is used up, OUT has
``reconstruction.json`` and ``.png`` (held-out photographs, see benchmarks.reconstruction),
``log.jsonl``, ``config.json``, a picture of the losses where matplotlib is installed, and the
checkpoint, cut into parts of at most --part-mib (join them with ``cat model.safetensors.*``).

At tiny size on a CPU: --minutes 0.2 --set model.decoder.depth=1 --set batch_size=4 --set
sample_count=2.
"""

import argparse
import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.loss_curve import draw
from benchmarks.reconstruction import write_report
from training import TrainConfig, TrainResult, override, parse_assignments, recipe, train

MIB = 2**20
# What a large GPU wants of the CPU recipe: whole batches, compiled, decoding in workers.
GPU_DEFAULTS = {
    "batch_size": "256",
    "data.workers": "12",
    "compile": "true",
    "optimizer.learning_rate": "1e-3",
    "ema_decay": "0.9995",
    "steps": "1000000",
    "sample_interval": "2000",
    "checkpoint_interval": "0",
    "checkpoint_minutes": "4",
    "tensorboard": "false",
}


def demo_config(
    data: Sequence[str], run: Path, *, minutes: float, gpu: bool, assignments: Sequence[str]
) -> TrainConfig:
    """The tiny-demo recipe, annealed over a budget of minutes of training."""
    changes = {
        **(GPU_DEFAULTS if gpu else {}),
        "data.paths": ",".join(data),
        "output": str(run),
        "max_minutes": str(minutes),
        "optimizer.anneal_over_budget": "true",
        **parse_assignments(assignments),
    }
    return override(recipe("tiny-demo"), changes)


def split_file(path: Path, out: Path, part_bytes: int) -> list[Path]:
    """Cut a file into numbered parts; returns their paths in order."""
    parts: list[Path] = []
    with path.open("rb") as file:
        while block := file.read(part_bytes):
            part = out / f"{path.name}.{len(parts):03d}"
            part.write_bytes(block)
            parts.append(part)
    return parts


def collect(config: TrainConfig, result: TrainResult, out: Path, part_bytes: int) -> None:
    """Everything of a finished run that is worth committing, into ``out``."""
    run = Path(config.output)
    write_report(result.export, out / "reconstruction")
    shutil.copy(run / "log.jsonl", out / "log.jsonl")
    shutil.copy(run / "config.json", out / "config.json")
    if importlib.util.find_spec("matplotlib") is not None:
        draw(run / "log.jsonl", out / "loss.png")
    for file in sorted(result.export.iterdir()):
        if file.stat().st_size > part_bytes:
            split_file(file, out, part_bytes)
        else:
            # The run's own config.json is another file of that name.
            shutil.copy(file, out / f"model_{file.name}" if file.suffix == ".json" else out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, train, and collect the results when the budget is used up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.train_demo")
    parser.add_argument("--data", action="append", required=True, help="tars; repeatable")
    parser.add_argument("--run", type=Path, required=True, help="the run's folder, kept by calls")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--minutes", type=float, default=18.0, help="budget over all calls")
    parser.add_argument("--call-minutes", type=float, default=9.0, help="limit of this call")
    parser.add_argument("--part-mib", type=float, default=15.0)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args(arguments)
    config = demo_config(
        options.data,
        options.run,
        minutes=options.minutes,
        gpu=torch.cuda.is_available(),
        assignments=options.set,
    )
    result = train(config, resume=True, call_minutes=options.call_minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    state = {
        **asdict(result),
        "checkpoint": result.checkpoint.name,
        "export": result.export.name,
        "environment": environment(),
    }
    (options.out / "run.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    print(f"{result.stopped} at step {result.step} after {result.seconds / 60:.1f} minutes")
    if result.stopped != "interrupted":
        collect(config, result, options.out, int(options.part_mib * MIB))


if __name__ == "__main__":
    main()
