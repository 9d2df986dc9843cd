"""Several times the capacity, with a deadline: is what can be done still done?"""

from dataclasses import dataclass

from benchmarks.serving.plan import Plan
from benchmarks.serving.runs import run_load, saturate
from benchmarks.serving.server import Server
from benchmarks.serving.sweep import SweepPoint, summarize_runs
from benchmarks.serving.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Overload:
    """What became of it.

    Attributes:
        deadline: Every request's deadline in seconds; also the limit of a good answer.
        capacity_rows: evaluations of the network a second at saturation, the mean of two
            measurements around this one.
        point: what came.
        useful: evaluations a second that ended in good answers, as a share of the capacity.
        answers_share: good answers a second as a share of what the capacity gives of the mix. It
            can be above 1, since short requests meet a deadline that long ones cannot.
        peak_bytes_before: the server's memory, the most before it.
    """

    deadline: float
    capacity_rows: float
    point: SweepPoint
    useful: float
    answers_share: float
    peak_bytes_before: int | None


def overload(
    server: Server, workload: Workload, plan: Plan, *, deadline: float, seed: int
) -> Overload:
    """Offer so many times the capacity as the plan says.

    Args:
        server: idle.
        workload: what is asked for.
        plan: factor and durations.
        deadline: Every request's deadline in seconds.
        seed: The seed of arrivals and requests.
    """

    def capacity_rows() -> float:
        saturated = saturate(
            server,
            workload,
            concurrency=plan.concurrency,
            ramp=plan.capacity_ramp,
            seconds=plan.capacity_seconds,
            seed=seed,
        )
        return saturated.computed.rows_a_second

    before = capacity_rows()
    peak = server.peak_bytes
    run = run_load(
        server,
        workload,
        rate=plan.overload_factor * before / workload.mean_rows,
        ramp=plan.overload_ramp,
        seconds=plan.overload_seconds,
        seed=seed,
        deadline=deadline,
    )
    point = summarize_runs(
        server, [run], load=plan.overload_factor, seconds=plan.overload_seconds, limit=deadline
    )
    capacity = (before + capacity_rows()) / 2
    return Overload(
        deadline=deadline,
        capacity_rows=capacity,
        point=point,
        useful=point.summary.goodput_rows / capacity,
        answers_share=point.summary.goodput * workload.mean_rows / capacity,
        peak_bytes_before=peak,
    )
