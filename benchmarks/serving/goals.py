"""What was aimed at, and whether it was reached."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.gateway import Gateway
from benchmarks.serving.overload import Overload
from benchmarks.serving.saturation import Saturation
from benchmarks.serving.sweep import SweepPoint, point_at

# Memory counts as bounded if several capacities at once raise the peak by no more than this share.
_MEMORY_GROWTH = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """One goal.

    Attributes:
        name: what is measured.
        wanted: in words.
        got: the figure; None where it could not be had.
        met: whether it is as wanted.
    """

    name: str
    wanted: str
    got: float | None
    met: bool


def goals(
    *,
    saturation: Saturation,
    points: Sequence[SweepPoint],
    load: float,
    gateway: Gateway,
    overload: Overload,
) -> list[Goal]:
    """All goals.

    Args:
        saturation: beside the offline sampler.
        points: The points of the sweep.
        load: The load at which points are compared.
        gateway: at one request at a time.
        overload: with a deadline.
    """
    step, request = (point_at(points, name, load).summary for name in ("step", "request"))
    p95 = None
    if step.latency is not None and request.latency is not None:
        p95 = step.latency.p95 / request.latency.p95
    before, after = overload.peak_bytes_before, overload.point.peak_bytes
    growth = None if before is None or after is None else after / before - 1
    return [
        _at_least(
            "saturated throughput / offline sampler at the same batch", 0.95, saturation.ratio
        ),
        _at_most(f"p95 at {load:.0%} load, by step / by request", 0.5, p95),
        _at_most("p50 of what HTTP and gateway add, in ms", 3.0, gateway.added.p50 * 1e3),
        _at_least(
            f"useful work at {overload.point.load:g} x overload / capacity", 0.9, overload.useful
        ),
        _at_most("growth of the server's peak memory under overload", _MEMORY_GROWTH, growth),
    ]


def _at_least(name: str, wanted: float, got: float | None) -> Goal:
    met = got is not None and got >= wanted
    return Goal(name=name, wanted=f"at least {wanted:g}", got=got, met=met)


def _at_most(name: str, wanted: float, got: float | None) -> Goal:
    met = got is not None and got <= wanted
    return Goal(name=name, wanted=f"at most {wanted:g}", got=got, met=met)
