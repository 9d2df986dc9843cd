"""How long each part is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One offered load.

    Attributes:
        load: share of what step-level batching can do.
        seconds: measured in each round.
        rounds: the disciplines take turns; each round has arrivals of its own.
    """

    load: float
    seconds: float
    rounds: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Durations are in seconds; a ramp is not counted.

    Attributes:
        unloaded_repeats: How often each kind of request is sent alone.
        limit_factor: the limit of a good answer, in times of the slowest kind alone.
        capacity_ramp, capacity_seconds, concurrency: of saturation with the mix.
        ramp, points: of the sweep.
        goal_load: the point that the goal on latency speaks of.
        overload_factor, overload_ramp, overload_seconds: offered are so many capacities.
        saturation_rounds, saturation_ramp, saturation_seconds: of saturation with the defaults.
        table_batches, table_seconds: batch sizes of the offline sampler beside it.
        gateway_pairs: requests of one step, each beside one picture without a service.
    """

    unloaded_repeats: int = 4
    limit_factor: float = 4.0
    capacity_ramp: float = 3.0
    capacity_seconds: float = 12.0
    concurrency: int = 16
    ramp: float = 4.0
    points: tuple[Point, ...] = (
        Point(load=0.3, seconds=15.0),
        Point(load=0.5, seconds=20.0),
        Point(load=0.7, seconds=30.0, rounds=2),
        Point(load=0.9, seconds=25.0),
    )
    goal_load: float = 0.7
    overload_factor: float = 3.0
    overload_ramp: float = 6.0
    overload_seconds: float = 30.0
    saturation_rounds: int = 4
    saturation_ramp: float = 2.0
    saturation_seconds: float = 6.0
    table_batches: tuple[int, ...] = (1, 2, 4, 8)
    table_seconds: float = 2.0
    gateway_pairs: int = 150


# To see that everything works; its figures say little.
QUICK = Plan(
    unloaded_repeats=1,
    capacity_ramp=0.5,
    capacity_seconds=1.5,
    ramp=0.5,
    points=(Point(load=0.3, seconds=2.0), Point(load=0.7, seconds=2.0)),
    overload_ramp=1.0,
    overload_seconds=3.0,
    saturation_rounds=1,
    saturation_ramp=0.5,
    saturation_seconds=1.5,
    table_batches=(1, 8),
    table_seconds=0.3,
    gateway_pairs=10,
)
