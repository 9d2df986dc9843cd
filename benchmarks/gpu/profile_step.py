"""Where the time of a decoder step goes. Step 7 of the list.

    python -m benchmarks.gpu.profile_step lo --out OUT

OUT/profile-MODEL-ROWS.txt: the 25 kernels that take most time, at batch 1 and 16, by the compiled
bf16 path without CUDA graphs (which would hide the launches). At tiny size on a CPU:
checkpoints/tiny --rows 1 --steps 1.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.command import numbers
from benchmarks.speed.measure import inputs
from benchmarks.speed.variants import subject
from flowmo.deploy.buckets import powers_of_two
from flowmo.deploy.compiled import CompiledSteps
from flowmo.model.inference import InferenceModel

_TOP = 25


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile, write a table for each model and number of rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.profile_step")
    parser.add_argument("models", nargs="+", help="checkpoint folders, or presets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--rows", type=numbers, default=[1, 16])
    parser.add_argument("--steps", type=int, default=5, help="that are profiled")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    device = torch.device("cuda" if cuda else "cpu")
    for name in options.models:
        with ExitStack() as stack:
            measured = subject(name, device, stack)
            model = InferenceModel(measured.network, dtype=torch.bfloat16, device=device)
            buckets = powers_of_two(max(options.rows))
            model.compute_with(CompiledSteps(model, buckets, cuda_graphs=False))
            for rows in options.rows:
                values = inputs(measured, "decoder", rows)
                for _ in range(3):
                    model.velocity(*values)
                with profile(activities=activities, record_shapes=False) as profiler:
                    for _ in range(options.steps):
                        model.velocity(*values)
                order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
                table = profiler.key_averages().table(
                    sort_by=order, row_limit=_TOP, max_name_column_width=80
                )
                path = options.out / f"profile-{Path(name).name}-{rows}.txt"
                path.write_text(f"{name}, {rows} rows, {options.steps} steps\n{table}\n")
                print(path)


if __name__ == "__main__":
    main()
