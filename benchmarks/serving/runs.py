"""One server under one load: alone, saturated, or offered so many requests a second."""

import asyncio
import time
from dataclasses import dataclass

from benchmarks.serving.arrivals import poisson_arrivals
from benchmarks.serving.load import Outcome, Saturated, closed_loop, connect, open_loop, send
from benchmarks.serving.scrape import Computed, snapshot
from benchmarks.serving.server import Server
from benchmarks.serving.summary import percentile
from benchmarks.serving.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One stretch of load, from idle to idle.

    Attributes:
        outcomes: of all requests, the ramp's first.
        measured: those planned after the ramp.
        computed: for all of them.
    """

    outcomes: list[Outcome]
    measured: list[Outcome]
    computed: Computed


def unloaded_seconds(server: Server, workload: Workload, *, repeats: int) -> dict[str, float]:
    """Median latency of each kind of request when it is alone."""

    async def measure() -> list[Outcome]:
        async with connect(server.url) as client:
            begin = time.monotonic()
            return [await send(client, ask, begin=begin) for ask in workload.each(repeats)]

    outcomes = asyncio.run(measure())
    return {
        kind.name: percentile([o.latency for o in outcomes if o.ask.kind == kind], 0.5)
        for kind in workload.kinds
    }


def saturate(
    server: Server, workload: Workload, *, concurrency: int, ramp: float, seconds: float, seed: int
) -> Saturated:
    """What a server computes when there is always enough to do."""

    async def measure() -> Saturated:
        async with connect(server.url) as client:
            return await closed_loop(
                client,
                workload.endless(seed=seed),
                concurrency=concurrency,
                ramp=ramp,
                seconds=seconds,
            )

    return asyncio.run(measure())


def run_load(
    server: Server,
    workload: Workload,
    *,
    rate: float,
    ramp: float,
    seconds: float,
    seed: int,
    deadline: float | None = None,
) -> Run:
    """Offer a load to an idle server, and wait until it is idle again.

    Args:
        server: idle.
        workload: what is asked for.
        rate: requests a second.
        ramp: seconds before those that count.
        seconds: that count.
        seed: the same one gives the same requests at the same instants.
        deadline: the seconds that each request allows the server.
    """
    arrivals = poisson_arrivals(rate, ramp + seconds, seed=seed)
    asks = workload.draw(len(arrivals), seed=seed)

    async def measure() -> Run:
        async with connect(server.url) as client:
            before = await snapshot(client)
            outcomes = await open_loop(client, asks, arrivals, deadline=deadline)
            computed = Computed.between(before, await snapshot(client))
        return Run(
            outcomes=outcomes,
            measured=[outcome for outcome in outcomes if outcome.planned >= ramp],
            computed=computed,
        )

    return asyncio.run(measure())
