"""Both halves at every batch size by every variant. Step 3 of the list.

    python -m benchmarks.gpu.speed --out OUT [--baseline module:function]

A report a model, half and batch size in OUT; what is there already is not measured again, so a run
that was cut goes on where it stopped. At tiny size on a CPU: --models checkpoints/tiny --batches 1
--encode-batches 1 --rounds 1 --variants 'serving bf16'.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.command import numbers, run
from flowmo.deploy.graphs import Half


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing in the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.speed")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--models", nargs="+", default=["lo", "small"])
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--encode-batches", type=numbers, default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--variants")
    parser.add_argument("--baseline")
    options = parser.parse_args(arguments)
    halves: tuple[tuple[Half, list[int]], ...] = (
        ("decoder", options.batches),
        ("encoder", options.encode_batches),
    )
    for model in options.models:
        for half, batches in halves:
            for rows in batches:
                out = options.out / f"{Path(model).name}-{half}-{rows}"
                if out.with_suffix(".json").is_file():
                    continue
                command = [model, f"--out={out}", f"--batches={rows}", f"--rounds={options.rounds}"]
                command += [f"--variants={options.variants}"] if options.variants else []
                command += [f"--baseline={options.baseline}"] if options.baseline else []
                run(half, command)


if __name__ == "__main__":
    main()
