"""Who waits for whom: ticks shared fairly beside the oldest decode first, on an emulated H100.

    python -m benchmarks.serving.fairness --out benchmarks/results/serving/fairness.json

The engine's own code in virtual time (:mod:`benchmarks.serving.roofline`), the same Poisson
arrivals for both orders; a load is a share of what the engine finishes when all is there at once.
A slowdown is a decode's latency in times of what the same decode takes alone. In the burst sixteen
decodes of 1000 steps come at once, while short ones come as before.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.serving.arrivals import poisson_arrivals
from benchmarks.serving.disciplines import capacity, drawn, models
from benchmarks.serving.roofline import Arrival, alone_seconds, bucket_seconds, serve
from benchmarks.serving.summary import spread
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.training.json_report import write_json

REQUESTS = 2000
SEEDS = (0, 1)
LOADS = (0.7, 0.9)
SHORT = SamplerConfig(steps=4, guidance=1.0)
LONG = SamplerConfig(steps=100, guidance=1.0)
LONGEST = SamplerConfig(steps=1000, guidance=1.0)
BURST = 16
# By name: what is asked for, a sampler as often as its share says.
LOAD_MIXES: dict[str, list[tuple[float, SamplerConfig]]] = {
    "short": [(1.0, SHORT)],
    "long": [(1.0, LONG)],
    "mixed": [(0.9, SHORT), (0.1, LONG)],
}
ORDERS = {"fair": False, "oldest first": True}
Seconds = Mapping[int, float]


def figures(
    arrivals: Sequence[Arrival], latencies: Sequence[float], seconds: Seconds
) -> dict[str, Any]:
    """Latencies in seconds and slowdowns, of all decodes and of those of each number of steps."""
    pairs = tuple(seconds.items())
    slowdowns = [
        latency / alone_seconds(arrival.sampler, pairs)
        for latency, arrival in zip(latencies, arrivals, strict=True)
    ]
    steps = [arrival.sampler.steps for arrival in arrivals]
    found: dict[str, Any] = {}
    for name, wanted in (("all", None), *((f"{n} steps", n) for n in sorted(set(steps)))):
        mine = [i for i, n in enumerate(steps) if wanted in {None, n}]
        found[name] = {
            "decodes": len(mine),
            "latency": asdict(spread([latencies[i] for i in mine])),
            "slowdown": asdict(spread([slowdowns[i] for i in mine])),
        }
    return found


def under_load(config: FlowMoConfig, mix: str, load: float) -> dict[str, Any]:
    """Both orders under Poisson arrivals of a mix."""
    seconds = bucket_seconds(config)
    rate = load * capacity(drawn(LOAD_MIXES[mix], REQUESTS, 0), seconds, "step")
    found: dict[str, Any] = {"model": config.name, "load": f"{mix}, {load:g} of capacity"}
    for order, oldest in ORDERS.items():
        every: list[Arrival] = []
        latencies: list[float] = []
        for seed in SEEDS:
            instants = poisson_arrivals(rate, REQUESTS / rate, seed=seed)
            arrivals = [
                Arrival(at=at, sampler=sampler)
                for at, sampler in zip(
                    instants, drawn(LOAD_MIXES[mix], len(instants), seed), strict=True
                )
            ]
            latencies += serve(arrivals, seconds, oldest_first=oldest).latencies
            every += arrivals
        found[order] = figures(every, latencies, seconds)
    return found


def burst(config: FlowMoConfig) -> dict[str, Any]:
    """Sixteen long decodes at once into short ones at half the capacity."""
    seconds = bucket_seconds(config)
    rate = 0.5 * capacity([SHORT] * REQUESTS, seconds, "step")
    shorts = [
        Arrival(at=at, sampler=SHORT) for at in poisson_arrivals(rate, REQUESTS / rate, seed=0)
    ]
    begin = shorts[len(shorts) // 10].at
    arrivals = sorted(
        [*shorts, *[Arrival(at=begin, sampler=LONGEST)] * BURST], key=lambda arrival: arrival.at
    )
    found: dict[str, Any] = {"model": config.name, "load": f"burst of {BURST} x 1000 steps"}
    for order, oldest in ORDERS.items():
        latencies = serve(arrivals, seconds, oldest_first=oldest).latencies
        found[order] = figures(arrivals, latencies, seconds)
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """As Markdown: fair beside the oldest first."""
    lines = [
        "| model | load | decodes | mean, ms | p95, ms | slowdown, mean | p95 | largest |",
        "|" + " --- |" * 8,
    ]
    for each in found:
        for kind in each["fair"]:
            if kind == "all" and len(each["fair"]) == 2:
                continue  # the one kind is all
            cells = [each["model"], each["load"], kind]
            for quantity, share, scale in (
                ("latency", "mean", 1e3),
                ("latency", "p95", 1e3),
                ("slowdown", "mean", 1.0),
                ("slowdown", "p95", 1.0),
                ("slowdown", "largest", 1.0),
            ):
                values = [scale * each[order][kind][quantity][share] for order in ORDERS]
                cells.append(" / ".join(f"{value:.3g}" for value in values))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both orders, write the report, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.fairness")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    demo, _, lo = models()
    found: list[dict[str, Any]] = []
    for config in (demo, lo):
        found += [under_load(config, mix, load) for mix in LOAD_MIXES for load in LOADS]
        found.append(burst(config))
    report = {
        "command": "python -m benchmarks.serving.fairness",
        "gpu": "h100, emulated",
        "requests": REQUESTS,
        "seeds": SEEDS,
        "tick_seconds": {config.name: bucket_seconds(config) for config in (demo, lo)},
        "loads": found,
        "environment": environment(),
    }
    write_json(options.out, report)
    print(table(found))


if __name__ == "__main__":
    main()
