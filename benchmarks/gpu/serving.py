"""The service on this GPU under load. Step 6 of the list; it needs the project's own dependencies.

    python -m benchmarks.gpu.serving --out OUT

For each model the report and the plot of ``python -m benchmarks.serving``: batching by step beside
batching by request and one at a time, saturation beside the offline sampler, overload. A preset is
served with random weights. What is there already is not measured again; a model takes about nine
minutes. To try it on a CPU: --models checkpoints/tiny --quick.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.serving.__main__ import main as measure
from benchmarks.speed.variants import subject


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models that have no report yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.serving")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--models", nargs="+", default=["checkpoints/tiny", "small"])
    parser.add_argument("--runner", default="torch", help="what computes: torch, compiled, …")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for model in options.models:
        out = options.out / f"serving-{Path(model).name}-{options.runner}"
        if out.with_suffix(".json").is_file():
            continue
        with ExitStack() as stack:
            checkpoint = subject(model, torch.device("cpu"), stack).checkpoint
            quick = ["--quick"] if options.quick else []
            how = [f"--runner={options.runner}", *quick]
            measure([f"--checkpoint={checkpoint}", f"--out={out}", *how])


if __name__ == "__main__":
    main()
