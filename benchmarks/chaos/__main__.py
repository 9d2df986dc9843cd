"""Break a small service on a local Ray cluster in every way that it should survive.

    python -m benchmarks.chaos --out benchmarks/results/chaos/faults       # 10 minutes, two cores
    python -m benchmarks.chaos --faults decoder,gateway --times 20

Four clients reconstruct a picture with seeds in turn and compare each answer with the picture
that the service gave before; where a prior's replica is killed they generate tokens instead. A
fault is injected under that load; counted is every request from then until some seconds after what
was broken is replaced. Clients repeat what failed, as ``flowmo.Client`` does; whether the first
attempt failed is counted, too. Writes OUT.json and OUT.md; the exit status is 1 if a target is not
met. Processes are killed only of the cluster that it starts.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos import faults
from benchmarks.chaos.application import running
from benchmarks.chaos.checked_load import generate
from benchmarks.chaos.distribution import distribution_table, distributions
from benchmarks.chaos.faults import Bench, Outcome
from benchmarks.chaos.nodes import two_nodes
from benchmarks.environment import environment
from flowmo.training.json_report import write_json

Fault = Callable[[Bench], Outcome]
# In one cluster, one after the other, as often as is asked for; the last one ends it.
FAULTS: dict[str, Fault] = {
    "encoder": lambda bench: faults.kill_replica(bench, "encoder"),
    "decoder": lambda bench: faults.kill_replica(bench, "decoder"),
    "gateway": lambda bench: faults.kill_replica(bench, "gateway"),
    "controller": faults.kill_controller,
    "hang": faults.hang_replica,
    "redeploy": faults.redeploy,
    "overload": faults.overload,
    "bodies": faults.bad_bodies,
    "disconnect": faults.disconnect,
    "stop": faults.graceful_stop,
}
STOP = "stop"
# Each in a cluster of its own.
GENERATOR = "generator"
NODE = "node"


def run(
    names: Sequence[str],
    folder: Path,
    *,
    before: float,
    after: float,
    times: int = 1,
    note: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Inject faults: the prior's and the lost node in clusters of their own, as stops after one.

    Args:
        names: The names of the faults.
        folder: for files.
        before: seconds of load before an injection.
        after: seconds of load after recovery.
        times: How often each is injected.
        note: Is told of each outcome when it is there.
    """
    outcomes: list[Outcome] = []

    def keep(outcome: Outcome) -> None:
        outcomes.append(outcome)
        note(outcome)

    chosen = [name for name in FAULTS if name in names]
    if chosen:
        with running(folder / "one", max_concurrent_requests=16) as application:
            bench = Bench(application, before=before, after=after)
            for name in chosen:
                for _ in range(1 if name == STOP else times):
                    keep(FAULTS[name](bench))
    for number in range(times - 1 if STOP in names else 0):
        with running(folder / f"stop{number}", max_concurrent_requests=16) as application:
            keep(FAULTS[STOP](Bench(application, before=before, after=after)))
    if GENERATOR in names:
        with running(folder / GENERATOR, generates=True, max_concurrent_requests=16) as application:
            bench = Bench(application, before=before, after=after, ask=generate)
            for _ in range(times):
                keep(faults.kill_replica(bench, GENERATOR))
    for number in range(times if NODE in names else 0):
        with (
            two_nodes() as nodes,
            running(
                folder / f"node{number}", address=nodes.address, max_concurrent_requests=16
            ) as application,
        ):
            bench = Bench(application, before=before, after=after)
            keep(faults.lose_node(bench, nodes))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """As Markdown."""
    columns = ["fault", "injected", "requests", "first attempt failed", "failed", "lost", "wrong"]
    columns += ["429", "replaced after", "longest gap", "target", "met"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for outcome in outcomes:
        tally = outcome.tally
        replaced = "" if outcome.recovery_seconds is None else f"{outcome.recovery_seconds:.1f} s"
        how = ", ".join(f"{end}: {count}" for end, count in tally.how.items())
        first = f"{tally.first_failed} ({how})" if how else "0"
        met = "yes" if outcome.met else "**no**"
        if outcome.note:
            met += f" ({outcome.note})"
        lines.append(
            f"| {outcome.fault} | {outcome.injected} | {tally.sent} | {first} "
            f"| {tally.failed} | {tally.lost} | {tally.wrong} | {tally.refused} | {replaced} "
            f"| {tally.longest_gap_seconds:.1f} s | {outcome.target} | {met} |"
        )
    return "\n".join(lines) + "\n"


def _tell(outcome: Outcome) -> None:
    print(f"{outcome.fault}: {'met' if outcome.met else 'NOT MET'} {outcome.tally}", flush=True)


def _shown(outcomes: Sequence[Outcome], times: int) -> str:
    return table(outcomes) if times == 1 else distribution_table(distributions(outcomes))


def _write(out: Path, outcomes: Sequence[Outcome], times: int) -> None:
    report: dict[str, Any] = {"times": times}
    report["faults"] = [asdict(outcome) for outcome in outcomes]
    report["distributions"] = [asdict(one) for one in distributions(outcomes)]
    write_json(out.with_suffix(".json"), report | {"environment": environment()})
    out.with_suffix(".md").write_text(_shown(outcomes, times), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    every = [*FAULTS, GENERATOR, NODE]
    parser.add_argument("--faults", default=",".join(every), help=f"of {', '.join(every)}")
    parser.add_argument("--before", type=float, default=3.0, help="seconds of load before each")
    parser.add_argument("--after", type=float, default=8.0, help="seconds of load after recovery")
    parser.add_argument("--times", type=int, default=1, help="how often each is injected")
    parser.add_argument("--out", type=Path, help="path of the report, no suffix")
    options = parser.parse_args(arguments)
    if options.times < 1:
        parser.error(f"--times must be at least 1, got {options.times}")
    names = options.faults.split(",")
    if unknown := sorted(set(names) - set(every)):
        parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(every)}")
    so_far: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        so_far.append(outcome)
        _tell(outcome)
        if options.out is not None:
            _write(options.out, so_far, options.times)  # the rest may take an hour

    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(
            names,
            Path(folder),
            before=options.before,
            after=options.after,
            times=options.times,
            note=note,
        )
    print(_shown(outcomes, options.times))
    return 0 if all(outcome.met for outcome in outcomes) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several replicas share the cores
    sys.exit(main())
