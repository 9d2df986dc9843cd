"""Ticks and completion times, in cases that can be worked out by hand."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.service.engine.schedule import (
    BucketTimes,
    Load,
    Tick,
    backlog,
    choose,
    completion,
    measure,
    worthwhile,
)

# Two rows cost little more than one, eight cost as much as two batches of four.
TIMES = {1: 1.0, 2: 1.2, 4: 2.0, 8: 4.0}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1], Tick((0,), 1)),
        ([2], Tick((0,), 2)),
        ([1, 1], Tick((0, 1), 2)),
        # 3 rows in a batch of 4 take 2.0: 1.5 a second; 2 of them take 1.2: 1.67 a second.
        ([1, 1, 1], Tick((0, 1), 2)),
        ([1, 1, 1, 1], Tick((0, 1, 2, 3), 4)),
        # The guided step in the middle does not fit any more; a younger single row does.
        ([1, 1, 1, 2, 1], Tick((0, 1, 2, 4), 4)),
        # Oldest first: the pair is in, although four single rows would fill the batch too.
        ([2, 1, 1, 1, 1], Tick((0, 1, 2), 4)),
    ],
)
def test_the_tick_that_finishes_most_rows_a_second(rows: list[int], expected: Tick) -> None:
    assert choose(rows, BucketTimes(TIMES)) == expected


@given(
    st.lists(st.integers(1, 2), min_size=1, max_size=40),
    st.dictionaries(st.integers(1, 32), st.floats(0.01, 10), min_size=1, max_size=6),
)
def test_a_tick_fits_and_has_the_oldest_in_it(rows: list[int], seconds: dict[int, float]) -> None:
    times = BucketTimes(seconds | {2: 1.0})
    tick = choose(rows, times)
    assert tick.bucket in times.buckets
    assert tick.chosen[0] == 0
    assert list(tick.chosen) == sorted(set(tick.chosen))
    assert 1 <= sum(rows[index] for index in tick.chosen) <= tick.bucket


def test_times_follow_the_machine_and_keep_their_ratio() -> None:
    times = BucketTimes(TIMES)
    for _ in range(200):
        times.observe(4, 6.0)  # three times slower than at warm-up
    assert times.seconds(4) == pytest.approx(6.0, rel=0.01)
    assert times.seconds(1) == pytest.approx(3.0, rel=0.01)
    assert (times.smallest(3), times.smallest(4), times.smallest(99)) == (4, 4, 8)


def test_a_machine_that_has_become_busy_is_known_after_seconds_and_one_stall_is_not_it() -> None:
    """Ticks of a small network, of which thousands fit into those seconds."""
    times = BucketTimes({1: 1e-4})
    times.observe(1, 3.0)
    assert times.seconds(1) < 1.1e-4
    spent = 0.0
    while spent < 5.0:  # ten times slower from now on
        times.observe(1, 1e-3)
        spent += 1e-3
    assert times.seconds(1) == pytest.approx(1e-3, rel=0.1)
    for _ in range(30_000):  # and quick again
        times.observe(1, 1e-4)
    assert times.seconds(1) == pytest.approx(1e-4, rel=0.1)


@pytest.mark.parametrize("seed", range(40))
def test_a_start_on_a_busy_machine_chooses_as_one_on_an_idle_one(seed: int) -> None:
    choice = random.Random(seed)
    # A machine that is slowed in two of five batches, up to five times, and by spells for long.
    costs = {1: 1.0, 2: 1.2, 4: 2.0, 8: 4.4}
    spell = iter([s for _ in range(100) for s in [choice.choice([1.0, 1.0, 1.6])] * 7])

    def seconds_of(bucket: int) -> float:
        slowed = choice.uniform(1.0, 5.0) if choice.random() < 0.4 else choice.uniform(1.0, 1.01)
        return 0.01 * costs[bucket] * slowed * next(spell)

    assert set(worthwhile(measure(tuple(costs), seconds_of), keep=2)) == {1, 2, 4}


def test_a_measurement_ends_on_a_machine_that_never_calms_down_or_is_slow() -> None:
    batches: list[int] = []

    def quicker_and_quicker(bucket: int) -> float:
        batches.append(bucket)
        return 1e-3 * 0.9 ** len(batches)

    measure([1, 2], quicker_and_quicker)
    assert len(batches) == 2 * 24
    batches.clear()

    def slow(bucket: int) -> float:
        batches.append(bucket)
        return 60.0

    assert measure([1, 2], slow) == {1: 60.0, 2: 60.0}
    assert len(batches) == 2 * 2


def test_a_bucket_that_was_measured_wrong_is_learned() -> None:
    times = BucketTimes(TIMES | {4: 20.0})
    for _ in range(600):
        for bucket, seconds in TIMES.items():
            times.observe(bucket, seconds)
    for bucket, seconds in TIMES.items():
        assert times.seconds(bucket) == pytest.approx(seconds, rel=0.25)


def test_buckets_that_gain_nothing_are_not_used() -> None:
    assert worthwhile(TIMES, keep=2) == {1: 1.0, 2: 1.2, 4: 2.0}
    # A guided step needs two rows, even where they gain nothing.
    assert worthwhile({1: 1.0, 2: 2.0, 4: 4.0}, keep=2) == {1: 1.0, 2: 2.0}
    assert worthwhile({1: 1.0, 2: 2.0, 4: 4.0}, keep=1) == {1: 1.0}


def test_completion_times() -> None:
    times = BucketTimes({1: 1.0, 2: 1.5})
    # Alone: ten ticks of one row.
    assert completion(0, 0, 0, Load(steps=10, rows=10), times) == 10.0
    # Alone and guided throughout: ten ticks of two rows.
    assert completion(0, 0, 0, Load(steps=10, rows=20), times) == 15.0
    # Beside one other, before or behind it: ten ticks of two rows.
    assert completion(1, 1, 10, Load(10, 10), times) == 15.0
    assert completion(1, 0, 0, Load(10, 10), times) == 15.0
    # Behind two of 4 and 6 rows: both slots for 5 ticks; then ten ticks of its own.
    assert completion(2, 2, 10, Load(10, 10), times) == (5 + 10) * 1.5


def test_a_picture_of_more_tiles_than_slots_takes_several_ticks_a_step() -> None:
    times = BucketTimes({1: 1.0, 2: 1.5})
    # Five tiles in three ticks a step.
    assert completion(0, 0, 0, Load(steps=10, rows=50), times) == 3 * 10 * 1.5


def test_the_backlog_is_the_time_until_a_slot_is_free() -> None:
    times = BucketTimes({1: 1.0, 2: 1.5})
    assert backlog([], times) == 0.0
    assert backlog([(10, 1)], times) == 0.0
    assert backlog([(10, 1), (4, 1)], times) == 4 * 1.5
    assert backlog([(10, 1), (4, 1), (5, 1)], times) == 9 * 1.5
    # A picture of many tiles has all slots at once.
    assert backlog([(60, 6)], times) == 30 * 1.5
