"""Engines: built here for one GPU and another, and run where there is one. Step 5 of the list.

    python -m benchmarks.gpu.tensorrt checkpoints/tiny --out OUT

For each architecture: do engines build, load and agree with PyTorch, and how fast is a step beside
the compiled PyTorch one? Engines built ahead for another architecture may or may not load; the
report says which. On a machine without a GPU only the building is tried: --architectures sm89.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.environment import environment
from benchmarks.speed.harness import in_turns
from benchmarks.speed.measure import inputs
from benchmarks.speed.variants import subject
from flowmo.deploy import golden
from flowmo.deploy.buckets import powers_of_two
from flowmo.deploy.compiled import CompiledSteps
from flowmo.deploy.export import Attention, export
from flowmo.deploy.fp8_graph import activation_ranges
from flowmo.deploy.graphs import HALVES
from flowmo.deploy.tensorrt.build import BuildOptions, build
from flowmo.deploy.tensorrt.keys import current_architecture, read_engine
from flowmo.deploy.tensorrt.libraries import Library, load_library
from flowmo.deploy.tensorrt.steps import EngineHalf, TensorRTSteps
from flowmo.model.errors import CompilationError
from flowmo.model.inference import InferenceModel
from flowmo.training.json_report import write_json

Quantization = Literal["none", "fp8"]


def try_architecture(
    name: str,
    architecture: str,
    library: Library,
    *,
    max_batch: int,
    attention: Attention,
    quantization: Quantization,
    rounds: int,
) -> dict[str, Any]:
    """Export, build, and on a GPU load, compare and time."""
    cuda = torch.cuda.is_available()
    record: dict[str, Any] = {
        "model": name,
        "architecture": architecture,
        "attention": attention,
        "quantization": quantization,
        "library": library.name,
        "version": library.version,
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        on_cpu = InferenceModel(
            subject(name, torch.device("cpu"), stack).network, dtype=torch.bfloat16
        )
        buckets = powers_of_two(max_batch)
        built = []
        for half in HALVES:
            begin = time.monotonic()
            ranges = activation_ranges(on_cpu, half) if quantization == "fp8" else None
            file = export(on_cpu, folder, half, attention=attention, fp8_ranges=ranges)
            exported = time.monotonic() - begin
            try:
                options = BuildOptions(architecture=architecture)
                path, manifest = build(file, folder, library, buckets, options=options)
            except CompilationError as error:
                return record | {"problem": str(error)}
            record[half] = {
                "export_seconds": exported,
                "build_seconds": manifest.seconds,
                "bytes": manifest.size,
                "report": manifest.report,
            }
            built.append((half, path, manifest))
        if not cuda:
            return record | {"problem": "no GPU to run it on"}
        model = InferenceModel(
            subject(name, torch.device("cuda"), stack).network,
            dtype=torch.bfloat16,
            device="cuda",
        )
        try:
            engines = {
                half: EngineHalf(
                    half, read_engine(path, manifest.key)[0], manifest, library, model.device
                )
                for half, path, manifest in built
            }
            steps = TensorRTSteps(engines)
            record["memory_bytes"] = steps.memory_bytes
            depths = {
                "encoder": model.config.encoder.depth,
                "decoder": model.config.decoder.depth,
            }
            for half, found in engines.items():
                record[half]["inspected"] = found.report(depths[half])
            factor = golden.FP8_FACTOR if quantization == "fp8" else golden.FACTOR
            errors = golden.check(steps, model, buckets, factor=factor)
            record["errors"] = {half: asdict(error) for half, error in errors.items()}
        except (CompilationError, RuntimeError) as error:
            return record | {"problem": str(error)}
        compiled = CompiledSteps(model, buckets)
        measured = subject(name, torch.device("cuda"), stack)
        record["steps"] = []
        for rows in buckets:
            x, times, condition = inputs(measured, "decoder", rows)
            values = (x, condition.to(model.dtype), model.modulation(times))
            ways = {
                "tensorrt": lambda values=values: steps.velocity(*values),
                "compiled": lambda values=values: compiled.velocity(*values),
            }
            with torch.inference_mode():
                timings = in_turns(ways, rounds=rounds)
            record["steps"].append(
                {"rows": rows, **{way: asdict(timing) for way, timing in timings.items()}}
            )
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Try every architecture, write OUT/tensorrt.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.tensorrt")
    parser.add_argument("models", nargs="+", help="checkpoint folders, or presets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--architectures", nargs="+", help="by default this GPU's and sm80")
    parser.add_argument("--attention", nargs="+", default=["fused", "explicit"])
    parser.add_argument("--quantization", nargs="+", default=["none"], choices=["none", "fp8"])
    parser.add_argument("--max-batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    library = load_library()
    architectures = options.architectures or [current_architecture(), "sm80"]
    records = []
    for model in options.models:
        for architecture in architectures:
            for attention, quantization in product(options.attention, options.quantization):
                record = try_architecture(
                    model,
                    architecture,
                    library,
                    max_batch=options.max_batch,
                    attention=attention,
                    quantization=quantization,
                    rounds=options.rounds,
                )
                print(model, architecture, attention, quantization, record.get("problem", "runs"))
                records.append(record)
                # After each one: a run that is cut keeps what it has.
                report = {"records": records, "environment": environment()}
                write_json(options.out / "tensorrt.json", report)


if __name__ == "__main__":
    main()
