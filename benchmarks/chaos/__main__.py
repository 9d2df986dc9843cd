"""Break a small service on a local Ray cluster in every way that it should survive.

    python -m benchmarks.chaos --out benchmarks/results/chaos/faults       # 10 minutes, two cores
    python -m benchmarks.chaos --faults decoder,gateway --times 20

Four clients reconstruct a picture with seeds in turn and compare each answer with the picture
that the service gave before; where a prior's replica is killed they generate tokens instead. A
fault is injected under that load; counted is every request from then until some seconds after what
was broken is replaced. Clients repeat what failed, as ``flowmo.Client`` does; whether the first
attempt failed is counted, too. At the end of each cluster its log is read: every line is JSON, and
every answer that a client got has its access line. Writes OUT.json and OUT.md, after each outcome;
SIGTERM ends it and its cluster. The exit status is 1 if a target is not met or a log lacks
something. Processes are killed only of the cluster that it starts.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos import faults
from benchmarks.chaos.access_lines import AccessLines
from benchmarks.chaos.application import logging_to, running
from benchmarks.chaos.checked_load import Ask, generate
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What came of one; it fills while it goes on.

    Attributes:
        outcomes: Of all faults.
        lines: What the logs say of all clusters' requests, by cluster.
        logged: By cluster, whether its log lacks nothing.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    lines: dict[str, AccessLines] = field(default_factory=dict)
    logged: dict[str, bool] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether every target is met and no log lacks anything."""
        return all(outcome.met for outcome in self.outcomes) and all(self.logged.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is run.

    Attributes:
        names: The names of the faults.
        folder: for files.
        before: seconds of load before an injection.
        after: seconds of load after recovery.
        times: How often each is injected.
    """

    names: Sequence[str]
    folder: Path
    before: float
    after: float
    times: int = 1


def run(plan: Plan, note: Callable[[Run, Outcome], None] = lambda _run, _last: None) -> Run:
    """Inject faults: the prior's and the lost node in clusters of their own, as stops after one.

    Args:
        plan: What is run.
        note: Is told of all there is, and of each outcome when it comes.
    """
    done = Run()

    @contextmanager
    def broken(
        cluster: str, *, ask: Ask | None = None, **how: Any
    ) -> Iterator[tuple[Bench, Callable[[Outcome], None]]]:
        def keep(outcome: Outcome) -> None:
            done.outcomes.append(outcome)
            note(done, outcome)

        with running(plan.folder / cluster, max_concurrent_requests=16, **how) as application:
            bench = Bench(application, before=plan.before, after=plan.after, ask=ask)
            yield bench, keep
        lines = bench.access_lines()
        done.lines[cluster] = lines
        done.logged[cluster] = lines.complete(may_miss=bench.may_miss)
        note(done, done.outcomes[-1])

    chosen = [name for name in FAULTS if name in plan.names]
    if chosen:
        with broken("one") as (bench, keep):
            for name in chosen:
                for _ in range(1 if name == STOP else plan.times):
                    keep(FAULTS[name](bench))
    for number in range(plan.times - 1 if STOP in plan.names else 0):
        with broken(f"stop-{number}") as (bench, keep):
            keep(FAULTS[STOP](bench))
    if GENERATOR in plan.names:
        with broken(GENERATOR, ask=generate, generates=True) as (bench, keep):
            for _ in range(plan.times):
                keep(faults.kill_replica(bench, GENERATOR))
    for number in range(plan.times if NODE in plan.names else 0):
        cluster = f"{NODE}-{number}"
        with (
            two_nodes(logging_to(plan.folder / cluster)) as nodes,
            broken(cluster, address=nodes.address) as (bench, keep),
        ):
            keep(faults.lose_node(bench, nodes))
    return done


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


def _write(out: Path, done: Run, times: int, begun: tuple[float, float, float]) -> None:
    report: dict[str, Any] = {"times": times}
    report["faults"] = [asdict(outcome) for outcome in done.outcomes]
    report["distributions"] = [asdict(one) for one in distributions(done.outcomes)]
    report["access_lines"] = {
        name: asdict(lines) | {"complete": done.logged[name]} for name, lines in done.lines.items()
    }
    report["load_average"] = [begun, os.getloadavg()]
    write_json(out.with_suffix(".json"), report | {"environment": environment()})
    out.with_suffix(".md").write_text(_shown(done.outcomes, times), encoding="utf-8")


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
    told: list[Outcome] = []
    begun = os.getloadavg()

    def note(done: Run, last: Outcome) -> None:
        if last not in told:
            told.append(last)
            _tell(last)
        if options.out is not None:
            _write(options.out, done, options.times, begun)  # the rest may take an hour

    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            names=names,
            folder=Path(folder),
            before=options.before,
            after=options.after,
            times=options.times,
        )
        done = run(plan, note)
    print(_shown(done.outcomes, options.times))
    for cluster, lines in done.lines.items():
        print(f"{cluster}: {'complete' if done.logged[cluster] else 'NOT COMPLETE'} {lines}")
    return 0 if done.met else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several replicas share the cores
    # What there is has been written; the cluster is to be stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
