"""Break a small service on a local Ray cluster in every way that it should survive.

    python -m benchmarks.chaos --out benchmarks/results/chaos/faults       # 10 minutes, two cores
    python -m benchmarks.chaos --faults decoder,gateway

Four clients reconstruct a picture with seeds in turn and compare each answer with the picture
that the service gave before. A fault is injected under that load; counted is every request from
then until some seconds after what was broken is replaced. Clients repeat what failed, as
``flowmo.Client`` does; whether the first attempt failed is counted, too. Writes OUT.json and
OUT.md; the exit status is 1 if a target is not met. Processes are killed only of the cluster that
it starts.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.chaos import faults
from benchmarks.chaos.application import running
from benchmarks.chaos.faults import Bench, Outcome
from benchmarks.chaos.nodes import two_nodes
from benchmarks.environment import environment
from flowmo.training.json_report import write_json

Fault = Callable[[Bench], Outcome]
# In one cluster, one after the other; the last one ends it.
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
NODE = "node"


def run(names: Sequence[str], folder: Path, *, before: float, after: float) -> list[Outcome]:
    """Inject faults, the lost node in a cluster of its own.

    Args:
        names: of the faults.
        folder: for files.
        before: seconds of load before an injection.
        after: seconds of load after recovery.
    """
    outcomes: list[Outcome] = []
    chosen = [name for name in FAULTS if name in names]
    if chosen:
        with running(folder / "one", max_concurrent_requests=16) as application:
            bench = Bench(application, before=before, after=after)
            for name in chosen:
                outcomes.append(FAULTS[name](bench))
                _tell(outcomes[-1])
    if NODE in names:
        with (
            two_nodes() as nodes,
            running(
                folder / "two", address=nodes.address, max_concurrent_requests=16
            ) as application,
        ):
            bench = Bench(application, before=before, after=after)
            outcomes.append(faults.lose_node(bench, nodes))
            _tell(outcomes[-1])
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    every = [*FAULTS, NODE]
    parser.add_argument("--faults", default=",".join(every), help=f"of {', '.join(every)}")
    parser.add_argument("--before", type=float, default=3.0, help="seconds of load before each")
    parser.add_argument("--after", type=float, default=8.0, help="seconds of load after recovery")
    parser.add_argument("--out", type=Path, help="path of the report, no suffix")
    options = parser.parse_args(arguments)
    names = options.faults.split(",")
    if unknown := sorted(set(names) - set(every)):
        parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(every)}")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(names, Path(folder), before=options.before, after=options.after)
    print(table(outcomes))
    if options.out is not None:
        report = {"faults": [asdict(outcome) for outcome in outcomes]}
        write_json(options.out.with_suffix(".json"), report | {"environment": environment()})
        options.out.with_suffix(".md").write_text(table(outcomes), encoding="utf-8")
    return 0 if all(outcome.met for outcome in outcomes) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several replicas share the cores
    sys.exit(main())
