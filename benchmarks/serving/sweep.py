"""Latency against offered load, the disciplines beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.plan import Plan
from benchmarks.serving.runs import Run, run_load, saturate
from benchmarks.serving.scrape import Computed
from benchmarks.serving.server import Discipline, Server
from benchmarks.serving.summary import Summary, summarize
from benchmarks.serving.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """One discipline at one load.

    Attributes:
        discipline: The server's batching discipline.
        load: offered, as a share of what step-level batching can do.
        summary: The summary of the measured requests.
        computed: by the server, ramps and the time until it was idle included.
        wasted_rows: computed for requests that got no picture.
        peak_bytes: the server's memory, the most so far.
    """

    discipline: Discipline
    load: float
    summary: Summary
    computed: Computed
    wasted_rows: int
    peak_bytes: int | None


def sweep(
    servers: Sequence[Server],
    workload: Workload,
    plan: Plan,
    *,
    capacity: float,
    limit: float,
    seed: int,
) -> list[SweepPoint]:
    """Every load for every discipline, in turns, so that a slow spell of the machine meets all.

    Args:
        servers: one a discipline, all running and idle.
        workload: what is asked for.
        plan: loads and durations.
        capacity: requests a second of which loads are shares.
        limit: latency of a good answer, in seconds.
        seed: The seed of arrivals and requests, which are the same for every discipline.
    """
    points: list[SweepPoint] = []
    turn = 0
    for point in plan.points:
        runs: dict[Discipline, list[Run]] = {server.batching: [] for server in servers}
        for _ in range(point.rounds):
            # Whoever went first goes last the next time.
            first = turn % len(servers)
            for server in (*servers[first:], *servers[:first]):
                run = run_load(
                    server,
                    workload,
                    rate=point.load * capacity,
                    ramp=plan.ramp,
                    seconds=point.seconds,
                    seed=seed + turn,
                )
                runs[server.batching].append(run)
            turn += 1
        points += [
            summarize_runs(
                server,
                runs[server.batching],
                load=point.load,
                seconds=point.seconds * point.rounds,
                limit=limit,
            )
            for server in servers
        ]
    return points


def summarize_runs(
    server: Server, runs: Sequence[Run], *, load: float, seconds: float, limit: float
) -> SweepPoint:
    """Figures of one discipline at one load."""
    computed = runs[0].computed
    for run in runs[1:]:
        computed = computed.plus(run.computed)
    answered = sum(o.ask.rows for run in runs for o in run.outcomes if o.is_answer)
    return SweepPoint(
        discipline=server.batching,
        load=load,
        summary=summarize([o for run in runs for o in run.measured], seconds=seconds, limit=limit),
        computed=computed,
        wasted_rows=computed.rows - answered,
        peak_bytes=server.peak_bytes,
    )


def point_at(points: Sequence[SweepPoint], discipline: Discipline, load: float) -> SweepPoint:
    """The point of a discipline at a load, which must have been measured."""
    return next(p for p in points if p.discipline == discipline and p.load == load)


def capacities(
    servers: Sequence[Server], workload: Workload, plan: Plan, *, seed: int
) -> dict[str, Computed]:
    """What each discipline computes when saturated with the same requests."""
    return {
        server.batching: saturate(
            server,
            workload,
            concurrency=plan.concurrency,
            ramp=plan.capacity_ramp,
            seconds=plan.capacity_seconds,
            seed=seed,
        ).computed
        for server in servers
    }
