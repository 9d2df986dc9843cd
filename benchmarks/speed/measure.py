"""Both halves of a network by every variant: seconds, speed beside the plain network, error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.harness import in_turns
from benchmarks.speed.variants import PLAIN, Compute, Subject
from flowmo.deploy.cost import GPUS, Gpu, cost_of
from flowmo.deploy.graphs import Half
from flowmo.model.config import FlowMoConfig
from flowmo.model.network import with_mask
from flowmo.model.sampler import count_forwards


def inputs(subject: Subject, half: Half, rows: int, *, seed: int = 0) -> tuple[Any, ...]:
    """The same for every variant: images, or noise, times spread over [0, 1] and condition."""
    config = subject.network.config
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, config.image_size, config.image_size, generator=generator)
    if half == "encoder":
        return (x.clamp(-1, 1).to(subject.device),)
    signs = torch.rand(rows, config.code_length, config.token_bits, generator=generator)
    condition = with_mask(torch.where(signs < 0.5, -1.0, 1.0))
    times = [1.0 - row / max(rows, 8) for row in range(rows)]
    return x.to(subject.device), times, condition.to(subject.device)


def measure(
    subject: Subject,
    half: Half,
    variants: Mapping[str, Mapping[Half, Compute]],
    *,
    rows: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Time one half at one batch size by every variant, in turns.

    Returns:
        A record a variant; times of the decoder are of one step. Errors are relative (L2) to the
        plain network's output and, for the encoder, the share of code bits that differ.
    """
    values = inputs(subject, half, rows)
    ways: dict[str, Callable[[], Tensor]] = {
        name: partial(made[half], *values) for name, made in variants.items() if half in made
    }
    outputs = {name: way().float().clone() for name, way in ways.items()}
    reference = outputs[PLAIN]
    peaks = {name: peak_bytes(way) for name, way in ways.items()}
    timings = in_turns(ways, rounds=rounds)
    records = []
    for name, timing in timings.items():
        difference = outputs[name] - reference
        record: dict[str, Any] = {
            "half": half,
            "rows": rows,
            "variant": name,
            **asdict(timing),
            "rows_a_second": rows / timing.median,
            "speedup": timings[PLAIN].median / timing.median,
            "relative_error": (difference.norm() / reference.norm()).item(),
            "largest_error": difference.abs().max().item(),
            "peak_bytes": peaks[name],
        }
        if half == "encoder":
            flips = (outputs[name] > 0) != (reference > 0)
            record["bits_that_differ"] = flips.float().mean().item()
        else:
            forwards = count_forwards(subject.network.config.sampler)
            record["forwards_a_picture"] = forwards
            record["seconds_a_picture"] = timing.median * forwards / rows
        if (floor := floor_seconds(subject.network.config, half, rows)) is not None:
            record["share_of_bf16_floor"] = floor / timing.median
        records.append(record)
    return records


def peak_bytes(way: Callable[[], Tensor]) -> int | None:
    """The most GPU memory while it computes, all variants' weights included; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    way()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def floor_seconds(config: FlowMoConfig, half: Half, rows: int) -> float | None:
    """The least seconds of one forward in bfloat16 on the GPU here; None where it is not known."""
    gpu = _gpu()
    return None if gpu is None else cost_of(config, rows).seconds(half, gpu)


def _gpu() -> Gpu | None:
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().lower()
    return next((gpu for key, gpu in GPUS.items() if key in name), None)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line a variant and batch size."""
    lines = [
        "| half | rows | variant | ms | spread | rows/s | times plain | relative error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['half']} | {r['rows']} | {r['variant']} | {r['median'] * 1e3:.3g} | "
        f"{r['low'] * 1e3:.3g}–{r['high'] * 1e3:.3g} | {r['rows_a_second']:.3g} | "
        f"{r['speedup']:.2f} | {r['relative_error']:.1e} |"
        for r in records
    ]
    return "\n".join(lines)
