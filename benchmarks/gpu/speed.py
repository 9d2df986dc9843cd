"""Steps and whole decodes of every variant, at every batch size. Step 3 of the list.

    python -m benchmarks.gpu.speed --out OUT [--baseline module:function]

One process, one variant after the other, the most wanted first; OUT/speed-MODEL-VARIANT.json is
written after each, and what is there already is not measured again: a run that was cut loses one
variant, and goes on with it. A decode is whole: 25 steps, of which 6 are guided, at batch 1 and 16,
from noise to picture. At tiny size on a CPU: --models checkpoints/tiny --batches 1
--encode-batches 1 --decode-batches 1 --rounds 1 --decode-rounds 1 --variants 'serving bf16'.
"""

import argparse
import gc
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import environment
from benchmarks.speed.command import numbers
from benchmarks.speed.harness import WARM_RUNS, in_turns
from benchmarks.speed.measure import floor_seconds, inputs, peak_bytes
from benchmarks.speed.variants import (
    PLAIN,
    SAMPLER,
    Compute,
    Subject,
    Variant,
    make,
    names,
    outside,
    subject,
)
from flowmo.deploy.graphs import Half
from flowmo.model.errors import FlowMoError
from flowmo.model.sampler import count_forwards, euler, guided, time_grid
from flowmo.training.json_report import write_json

# Those that decide come first, for a run may be cut.
_FIRST = (
    "compiled bf16",
    "compiled bf16 without compiled with all",
    "compiled bf16 with all",
    "compiled bf16 without compiled with flash-attention all",
    "compiled bf16 without compiled with all whole-decode",
    "compiled bf16 without compiled with all+fp8-rowwise",
    "compiled-fp8 bf16",
    "compiled bf16 with fp8-rowwise",
    "compiled bf16 with whole-decode",
    "serving bf16",
    "tensorrt bf16",
)


def decode(step: Compute, x: Tensor, condition: Tensor) -> Tensor:
    """Make whole pictures by a variant's steps.

    Args:
        step: The variant's decoder.
        x: The starting noise, float32 [B, 3, S, S].
        condition: Float32 [B, K, D + 1].

    Returns:
        Float32 [B, 3, S, S] in [-1, 1].
    """

    def velocity(x: Tensor, t: float, rows: Tensor) -> Tensor:
        return step(x, [t] * len(x), rows)

    field = guided(velocity, condition, torch.zeros_like(condition), SAMPLER)
    return euler(field, x, time_grid(SAMPLER)).clamp(-1, 1)


class Measurement:
    """What all variants of a model are measured at, and compared with.

    Args:
        measured: The network.
        batches: The batch sizes of each half.
        decodes: The batch sizes of whole decodes.
        rounds: The rounds of a step, and of a decode.
    """

    def __init__(
        self,
        measured: Subject,
        *,
        batches: Mapping[Half, Sequence[int]],
        decodes: Sequence[int],
        rounds: tuple[int, int],
    ) -> None:
        self._subject, self._batches, self._decodes = measured, batches, decodes
        self._step_rounds, self._decode_rounds = rounds
        plain = make(PLAIN, measured, [1])
        with torch.inference_mode():
            self._references = {
                half: plain[half](*inputs(measured, half, max(rows)))
                for half, rows in batches.items()
            }

    @property
    def sizes(self) -> list[int]:
        """All batch sizes."""
        return sorted({*self._decodes, *(n for rows in self._batches.values() for n in rows)})

    @torch.inference_mode()
    def steps(self, halves: Mapping[Half, Compute]) -> list[dict[str, Any]]:
        """Time each half at each batch size; errors are relative (L2) to the plain network."""
        records = []
        for half, batches in self._batches.items():
            if half not in halves:
                continue
            for rows in batches:
                values = inputs(self._subject, half, max(batches))
                values = tuple(value[:rows] for value in values)
                record = self._record(partial(halves[half], *values), self._step_rounds)
                expected = self._references[half][:rows]
                difference = halves[half](*values) - expected
                record |= {"half": half, "rows": rows, "rows_a_second": rows / record["median"]}
                record["relative_error"] = (difference.norm() / expected.norm()).item()
                if half == "encoder":
                    flips = (difference + expected > 0) != (expected > 0)
                    record["bits_that_differ"] = flips.float().mean().item()
                floor = floor_seconds(self._subject.network.config, half, rows)
                if floor is not None:
                    record["share_of_bf16_floor"] = floor / record["median"]
                records.append(record)
        return records

    @torch.inference_mode()
    def decodes(self, halves: Variant) -> list[dict[str, Any]]:
        """Time whole decodes at each batch size."""
        records = []
        for rows in self._decodes:
            x, _, condition = inputs(self._subject, "decoder", rows)
            whole = halves.decode if rows == 1 else None
            way = partial(whole or partial(decode, halves["decoder"]), x, condition)
            record = self._record(way, self._decode_rounds, warm_runs=1)
            record |= {
                "rows": rows,
                "whole": whole is not None,
                "steps": SAMPLER.steps,
                "forwards": count_forwards(SAMPLER),
                "images_a_second": rows / record["median"],
            }
            floor = floor_seconds(self._subject.network.config, "decoder", rows)
            if floor is not None:
                record["share_of_bf16_floor"] = floor * record["forwards"] / record["median"]
            records.append(record)
        return records

    @staticmethod
    def _record(
        way: Callable[[], Tensor], rounds: int, warm_runs: int = WARM_RUNS
    ) -> dict[str, Any]:
        timing = in_turns({"": way}, rounds=rounds, warm_runs=warm_runs)[""]
        return asdict(timing) | {"peak_bytes": peak_bytes(way)}


def measure_variant(name: str, measured: Subject, measurement: Measurement) -> dict[str, Any]:
    """Make a variant and measure it; why it is not to be had, if it is not."""
    begin, before = time.monotonic(), _allocated()
    try:
        sizes = measurement.sizes
        halves = outside(name, measured) if ":" in name else make(name, measured, sizes)
        report = {
            "steps": measurement.steps(halves),
            "decodes": measurement.decodes(halves) if "decoder" in halves else [],
        }
    except (FlowMoError, RuntimeError) as error:  # of a compiler or the GPU, as of ours
        return {"variant": name, "left_out": str(error)}
    held = None if before is None else (_allocated() or 0) - before
    seconds = round(time.monotonic() - begin, 1)
    return {"variant": name, **report, "held_bytes": held, "seconds_in_all": seconds}


def _allocated() -> int | None:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else None


def in_order(variants: Sequence[str]) -> list[str]:
    """The variants, those that decide first."""
    rank = {name: number for number, name in enumerate(_FIRST)}
    return sorted(variants, key=lambda name: rank.get(name, len(rank)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing in the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.speed")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--models", nargs="+", default=["lo", "small"])
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--encode-batches", type=numbers, default=[1, 8, 32, 64])
    parser.add_argument("--decode-batches", type=numbers, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=7, help="of a step")
    parser.add_argument("--decode-rounds", type=int, default=3, help="of a whole decode")
    parser.add_argument("--variants", help="as 'serving bf16,compiled bf16'")
    parser.add_argument("--baseline", help="module:function of an outside implementation")
    options = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    cuda = torch.cuda.is_available()
    wanted = options.variants.split(",") if options.variants else names(cuda=cuda)
    wanted = [*([options.baseline] if options.baseline else []), *in_order(wanted)]
    for model in options.models:
        stem = f"speed-{Path(model).name}"
        paths = {name: options.out / f"{stem}-{_slug(name)}.json" for name in wanted}
        if all(path.is_file() for path in paths.values()):
            continue
        with ExitStack() as stack:
            measured = subject(model, torch.device("cuda" if cuda else "cpu"), stack)
            measurement = Measurement(
                measured,
                batches={"decoder": options.batches, "encoder": options.encode_batches},
                decodes=options.decode_batches,
                rounds=(options.rounds, options.decode_rounds),
            )
            for name, path in paths.items():
                if path.is_file():
                    continue
                report = measure_variant(name, measured, measurement)
                gc.collect()
                if cuda:
                    torch.cuda.empty_cache()
                write_json(path, {"model": model, **report, "environment": environment()})
                print(f"{model}: {name}: {_summary(report)}", flush=True)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)


def _summary(report: Mapping[str, Any]) -> str:
    if "left_out" in report:
        return f"left out: {str(report['left_out']).splitlines()[0]}"
    decodes = [f"{r['rows']}: {r['median'] * 1e3:.4g} ms" for r in report["decodes"]]
    return f"decodes of {', '.join(decodes)}" if decodes else "measured"


if __name__ == "__main__":
    main()
