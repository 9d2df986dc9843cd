"""An open-loop load benchmark of the HTTP service.

    python -m benchmarks.serving --out benchmarks/results/serving/tiny_cpu

starts a server for each way to form batches (by step, by request, one request at a time) and writes
OUT.json and OUT.png; the tables go to standard output. Requests are decodes of the sample
photographs' tokens with mixed options; arrivals are a Poisson process, the same for each server.
Latency counts from the planned arrival. Everything compared is measured in turns, but machines have
slow spells: trust ratios of one run, not figures of two.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch

from benchmarks.environment import environment
from benchmarks.serving import table
from benchmarks.serving.gateway import gateway
from benchmarks.serving.goals import goals
from benchmarks.serving.offline_process import OfflineProcess
from benchmarks.serving.overload import overload
from benchmarks.serving.plan import QUICK, Plan
from benchmarks.serving.plot import draw
from benchmarks.serving.runs import unloaded_seconds
from benchmarks.serving.saturation import saturation
from benchmarks.serving.server import Discipline, Server
from benchmarks.serving.sweep import capacities, sweep
from benchmarks.serving.workload import DEFAULTS, MIX, ONE_STEP, look_at
from flowmo.deploy.runners import KINDS
from flowmo.training.json_report import write_json

_ROOT = Path(__file__).resolve().parents[2]


def measure(
    checkpoint: Path,
    out: Path,
    plan: Plan,
    *,
    threads: int,
    seed: int,
    runner: str = "torch",
    dtype: str = "auto",
) -> None:
    """Measure everything, write OUT.json and OUT.png, print the tables.

    Args:
        checkpoint: what is served.
        out: path of the report without suffix; its folder is made.
        plan: durations.
        threads: The threads of one operation of torch, in servers and offline.
        seed: The seed of arrivals and requests.
        runner: What computes the model, in servers and offline.
        dtype: The dtype of weights and activations, in servers and offline.
    """
    how = {"runner": runner, "dtype": dtype}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = []
        for name in get_args(Discipline):  # one after the other: each times batches as it starts
            log = logs / f"{name}.log"
            server = Server(checkpoint, batching=name, threads=threads, log=log, **how)
            servers.append(stack.enter_context(server))
            _tell(f"batching by {name}: {server.url}")
        offline = stack.enter_context(OfflineProcess(checkpoint, threads=threads, **how))
        by_step = servers[0]
        served = look_at(by_step.url)
        mix = served.workload(MIX)

        unloaded = unloaded_seconds(by_step, mix, repeats=plan.unloaded_repeats)
        limit = plan.limit_factor * max(unloaded.values())
        _tell("one request of one step at a time")
        at_gateway = gateway(by_step, offline, served.workload(ONE_STEP), plan, seed=seed)
        _tell("saturation, beside the offline sampler")
        saturated = saturation(by_step, offline, served.workload(DEFAULTS), plan, seed=seed)
        _tell("saturation with the mix")
        capacity = capacities(servers, mix, plan, seed=seed)
        _tell("the sweep")
        step_capacity = capacity["step"].rows_a_second / mix.mean_rows
        points = sweep(servers, mix, plan, capacity=step_capacity, limit=limit, seed=seed)
        _tell("overload")
        overloaded = overload(by_step, mix, plan, deadline=limit, seed=seed)
    reached = goals(
        saturation=saturated,
        points=points,
        load=plan.goal_load,
        gateway=at_gateway,
        overload=overloaded,
    )
    report = {
        "model": served.model,
        "fingerprint": served.fingerprint,
        "sampler": served.default.to_dict(),
        "threads": threads,
        **how,
        "seed": seed,
        "plan": asdict(plan),
        "mix": [asdict(kind) | {"rows": mix.rows(kind)} for kind in mix.kinds],
        "mean_rows": mix.mean_rows,
        "unloaded_seconds": unloaded,
        "limit_seconds": limit,
        "goals": [asdict(goal) for goal in reached],
        "capacity": {name: asdict(computed) for name, computed in capacity.items()},
        "sweep": [asdict(point) for point in points],
        "overload": asdict(overloaded),
        "saturation": asdict(saturated),
        "gateway": asdict(at_gateway),
        "environment": environment(),
    }
    write_json(out.with_suffix(".json"), report)
    draw(points, out.with_suffix(".png"), limit=limit)
    print(table.goals_table(reached), end="\n\n")
    print(table.capacity_table(capacity, mix.mean_rows), end="\n\n")
    print(table.sweep_table(points), end="\n\n")
    print(table.kinds_table(points), end="\n\n")
    print(table.overload_table(overloaded))


def _tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("--checkpoint", type=Path, default=_ROOT / "checkpoints" / "tiny")
    parser.add_argument("--out", type=Path, required=True, help="path of the report, no suffix")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it works")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--runner", choices=KINDS, default="torch", help="in servers and offline")
    parser.add_argument("--dtype", default="auto", help="in servers and offline")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and requests")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    measure(
        options.checkpoint,
        options.out,
        QUICK if options.quick else Plan(),
        threads=torch.get_num_threads(),
        seed=options.seed,
        runner=options.runner,
        dtype=options.dtype,
    )


if __name__ == "__main__":
    main()
