"""Batching by step beside batching by request, on an emulated H100.

    python -m benchmarks.serving.disciplines --out benchmarks/results/serving/disciplines.json

The engine's own code in virtual time (:mod:`benchmarks.serving.roofline`): exact, the same on
every machine. Poisson arrivals, the same for each discipline; HTTP is not in it. A load is a share
of what a discipline finishes when all requests are there at once: batching by request is looked at
under 0.7 of what batching by step can do, which may be more than it can do itself, and under 0.7 of
its own capacity. "few-step" is the mix of ``python -m benchmarks.serving``.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from benchmarks.serving.arrivals import poisson_arrivals
from benchmarks.serving.roofline import Arrival, alone_seconds, bucket_seconds, serve
from benchmarks.serving.summary import Spread, spread
from benchmarks.serving.workload import MIX
from flowmo.model.config import FlowMoConfig, SamplerConfig, preset
from flowmo.model.sampler import count_forwards
from flowmo.training.json_report import write_json

_ROOT = Path(__file__).resolve().parents[2]
REQUESTS = 1000
SEEDS = (0, 1)
_SHARE_OF_RAMP = 0.1
_PLAIN = SamplerConfig(steps=4, guidance=1.0)
# By name: what is asked for, a sampler as often as its share says.
MIXES: dict[str, list[tuple[float, SamplerConfig]]] = {
    "few-step": [(kind.share, kind.sampler(_PLAIN)) for kind in MIX],
    "4 or 25 steps": [(0.9, _PLAIN), (0.1, SamplerConfig(steps=25))],
    "all 4 steps": [(1.0, _PLAIN)],
    "all 25 steps": [(1.0, SamplerConfig(steps=25))],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A discipline under a load.

    Attributes:
        batching: By step or by request.
        latency: Seconds from arrival to picture.
        slowdown: The latency in times of that of the same decode alone.
        rows_a_tick: The rows of a tick on average.
    """

    batching: str
    latency: Spread
    slowdown: Spread
    rows_a_tick: float


def drawn(
    mix: Sequence[tuple[float, SamplerConfig]], number: int, seed: int
) -> list[SamplerConfig]:
    """Samplers in random order, each as often as its share says.

    Args:
        mix: Shares and samplers.
        number: How many.
        seed: The seed of the order.
    """
    bounds = np.cumsum([share for share, _ in mix])
    points = (np.arange(number) + 0.5) / number * bounds[-1]
    chosen = np.minimum(np.searchsorted(bounds, points), len(mix) - 1)
    return [mix[index][1] for index in np.random.default_rng(seed).permutation(chosen)]


def capacity(
    samplers: Sequence[SamplerConfig], seconds: Mapping[int, float], batching: Any
) -> float:
    """Requests a second of a discipline that always has enough to do."""
    arrivals = [Arrival(at=0.0, sampler=sampler) for sampler in samplers]
    return len(arrivals) / serve(arrivals, seconds, batching=batching).seconds


def point(
    mix: Sequence[tuple[float, SamplerConfig]],
    seconds: Mapping[int, float],
    batching: Any,
    rate: float,
) -> Point:
    """Offer a discipline so many requests a second."""
    latencies: list[float] = []
    slowdowns: list[float] = []
    rows = ticks = 0
    for seed in SEEDS:
        instants = poisson_arrivals(rate, REQUESTS / rate, seed=seed)
        arrivals = [
            Arrival(at=at, sampler=sampler)
            for at, sampler in zip(instants, drawn(mix, len(instants), seed), strict=True)
        ]
        served = serve(arrivals, seconds, batching=batching)
        ramp = int(_SHARE_OF_RAMP * len(arrivals))
        latencies += served.latencies[ramp:]
        slowdowns += [
            latency / alone_seconds(arrival.sampler, tuple(seconds.items()))
            for latency, arrival in zip(served.latencies[ramp:], arrivals[ramp:], strict=True)
        ]
        rows += sum(count_forwards(arrival.sampler) for arrival in arrivals)
        ticks += served.ticks
    return Point(
        batching=batching,
        latency=spread(latencies),
        slowdown=spread(slowdowns),
        rows_a_tick=rows / ticks,
    )


def compare(config: FlowMoConfig, name: str, load: float = 0.7) -> dict[str, Any]:
    """Both disciplines under a mix.

    Args:
        config: The model whose times are taken.
        name: The name of the mix.
        load: The share of capacity that is offered.
    """
    mix, seconds = MIXES[name], bucket_seconds(config)
    samplers = drawn(mix, REQUESTS, seed=0)
    capacities = {how: capacity(samplers, seconds, how) for how in ("step", "request")}
    found: dict[str, Any] = {
        "model": config.name,
        "mix": name,
        "load": load,
        "capacity": capacities,
        "rows_a_request": statistics.mean(count_forwards(sampler) for sampler in samplers),
    }
    for of, rate in capacities.items():
        step, request = (point(mix, seconds, how, load * rate) for how in ("step", "request"))
        found[f"load of the capacity by {of}"] = {
            "offered": load * rate,
            "points": [asdict(step), asdict(request)],
            "p95 by step / by request": step.latency.p95 / request.latency.p95,
            "mean by step / by request": step.latency.mean / request.latency.mean,
        }
    return found


def models() -> list[FlowMoConfig]:
    """The models whose times are taken: the demo model, and two of the paper's."""
    path = _ROOT / "checkpoints" / "tiny" / "config.json"
    demo = FlowMoConfig.from_dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    return [demo, preset("small"), preset("lo")]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """As Markdown."""
    head = (
        "| model | mix | requests/s, step / request | p95 at 0.7 of step's | ratio | p95 at 0.7 of "
        "request's | ratio |"
    )
    lines = [head, "|" + " --- |" * 7]
    for each in found:
        cells = [each["model"], each["mix"]]
        cells.append(" / ".join(f"{each['capacity'][how]:.3g}" for how in ("step", "request")))
        for of in ("step", "request"):
            at = each[f"load of the capacity by {of}"]
            p95 = [1e3 * point["latency"]["p95"] for point in at["points"]]
            cells += [
                f"{p95[0]:.3g} / {p95[1]:.3g} ms",
                f"{at['p95 by step / by request']:.2f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, write the report, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.disciplines")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    found = [compare(config, name) for config in models() for name in MIXES]
    report = {
        "command": "python -m benchmarks.serving.disciplines",
        "gpu": "h100, emulated",
        "requests": REQUESTS,
        "seeds": SEEDS,
        "tick_seconds": {config.name: bucket_seconds(config) for config in models()},
        "mixes": {
            name: [{"share": share, "sampler": sampler.to_dict()} for share, sampler in mix]
            for name, mix in MIXES.items()
        },
        "comparisons": found,
        "environment": environment(),
    }
    write_json(options.out, report)
    print(table(found))


if __name__ == "__main__":
    main()
