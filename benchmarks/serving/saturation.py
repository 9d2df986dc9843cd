"""A saturated server beside the offline sampler at the same batch size."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.serving.offline_process import OfflineProcess
from benchmarks.serving.plan import Plan
from benchmarks.serving.runs import saturate
from benchmarks.serving.scrape import Computed
from benchmarks.serving.server import Server
from benchmarks.serving.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """The server, then the offline sampler; rates in evaluations of the network a second."""

    server: Computed
    server_rate: float
    offline_rate: float
    ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturation:
    """All rounds.

    Attributes:
        batch: The offline sampler's batch, that of the table nearest to the server's mean.
        rounds: in order.
        ratio: the median of the rounds'.
        offline_table: rate of the offline sampler by batch size, measured once.
    """

    batch: int
    rounds: list[Round]
    ratio: float
    offline_table: Mapping[int, float]


def saturation(
    server: Server, offline: OfflineProcess, workload: Workload, plan: Plan, *, seed: int
) -> Saturation:
    """Measure both in turns.

    Args:
        server: idle.
        offline: the same model with as many threads.
        workload: what every request asks for; the model's defaults, as the offline sampler does.
        plan: rounds and durations.
        seed: The seed of the requests.
    """
    table = {
        batch: offline.rows_a_second(batch, plan.table_seconds) for batch in plan.table_batches
    }
    rounds: list[Round] = []
    batch = 0
    for number in range(plan.saturation_rounds):
        computed = saturate(
            server,
            workload,
            concurrency=plan.concurrency,
            ramp=plan.saturation_ramp,
            seconds=plan.saturation_seconds,
            seed=seed + number,
        ).computed
        mean = computed.rows_a_tick
        batch = batch or min(plan.table_batches, key=lambda size: abs(size - mean))
        rate = offline.rows_a_second(batch, plan.saturation_seconds)
        rounds.append(
            Round(
                server=computed,
                server_rate=computed.rows_a_second,
                offline_rate=rate,
                ratio=computed.rows_a_second / rate,
            )
        )
    return Saturation(
        batch=batch,
        rounds=rounds,
        ratio=statistics.median(each.ratio for each in rounds),
        offline_table=table,
    )
