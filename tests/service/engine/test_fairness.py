"""Who gets the rows of a tick: guarantees held over random loads, in ticks instead of seconds."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.service.engine.calls import Call, Priority
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.schedule import BucketTimes, choose


@dataclass(eq=False)
class Decode:
    """A decode of which only its rows count.

    Attributes:
        rows: The rows of each step.
        comes: The tick before which it comes.
        call: Whose it is.
        done: The steps that are made.
        ended: The tick after which it was done.
    """

    rows: list[int]
    comes: int = 0
    call: Call = field(default_factory=Call)
    done: int = 0
    ended: int | None = None

    @property
    def ready_rows(self) -> int:
        return self.rows[self.done]

    @property
    def ready_parts(self) -> int:
        return 1

    @property
    def rows_left(self) -> int:
        return sum(self.rows[self.done :])


def serve(decodes: list[Decode], slots: int, ticks: int | None = None) -> list[int]:
    """Make the ticks of a device whose batches take as long whatever is in them.

    Returns:
        The rows of each tick.
    """
    times = BucketTimes({slots: 1.0})
    queue, coming = FairQueue[Decode](), sorted(decodes, key=lambda d: d.comes)
    used: list[int] = []
    for tick in itertools.count():
        while coming and coming[0].comes <= tick:
            queue.add(coming.pop(0))
        if (not queue and not coming) or tick == ticks:
            return used
        offered = list(queue.order())
        assert sorted(map(id, offered)) == sorted(map(id, queue))
        chosen = choose([d.ready_rows for d in offered], times).chosen if offered else ()
        batch = [offered[index] for index in chosen]
        used.append(sum(d.ready_rows for d in batch))
        queue.give(batch)
        for decode in batch:
            decode.done += 1
            if decode.done == len(decode.rows):
                decode.ended = tick + 1
                queue.remove(decode)
        assert queue.rows_left == sum(d.rows_left for d in queue)
    raise AssertionError


def most_inside_if_shared_evenly(decodes: list[Decode], used: list[int]) -> int:
    """How many decodes would be inside at once if the rows of each tick were shared evenly."""
    left: dict[Decode, float] = {}
    most = 0
    for tick in itertools.count():
        left |= {d: float(sum(d.rows)) for d in decodes if d.comes == tick}
        most = max(most, len(left))
        if tick >= len(used):
            return most
        # Water that fills the smallest first, at most a row of a tick each.
        given, rest = dict.fromkeys(left, 0.0), float(used[tick])
        while rest > 1e-9 and (open_ := [d for d in left if given[d] < min(1.0, left[d]) - 1e-9]):
            share = rest / len(open_)
            for d in open_:
                more = min(share, 1.0 - given[d], left[d] - given[d])
                given[d] += more
                rest -= more
        left = {d: rows - given[d] for d, rows in left.items() if rows - given[d] > 1e-9}
    raise AssertionError


def test_a_short_decode_goes_before_many_long_ones() -> None:
    longs = [Decode([1] * 1000) for _ in range(16)]
    short = Decode([1] * 4, comes=500)
    serve([*longs, short], slots=16)
    assert short.ended == 504
    assert max(d.ended or 0 for d in longs) <= 1004


def test_a_long_decode_ends_beside_a_stream_of_short_ones() -> None:
    # The short ones alone are all that the device can do, for ever.
    shorts = [Decode([1] * 4, comes=tick) for tick in range(4000) for _ in range(2)]
    long = Decode([1] * 100)
    serve([long, *shorts], slots=8, ticks=1500)
    # While it waits the short ones pile up; shared with n of them it would take 100 n / 8 ticks.
    assert long.ended is not None


loads = st.lists(
    st.builds(
        Decode,
        rows=st.one_of(st.integers(1, 12), st.integers(50, 120)).map(lambda n: [1] * n),
        comes=st.integers(0, 60),
    ),
    min_size=1,
    max_size=30,
)


@given(loads, st.integers(1, 8))
def test_the_slowdown_is_bounded_whatever_else_is_inside(decodes: list[Decode], slots: int) -> None:
    used = serve(decodes, slots)
    inside = most_inside_if_shared_evenly(decodes, used)
    for decode in decodes:
        assert decode.ended is not None
        took = decode.ended - decode.comes
        assert took <= len(decode.rows) * (1 + inside / slots) + 1


@given(
    st.lists(
        st.builds(
            Decode,
            rows=st.lists(st.integers(1, 2), min_size=1, max_size=40),
            comes=st.integers(0, 30),
            call=st.builds(
                Call,
                tenant=st.sampled_from(["a", "b", None]),
                weight=st.sampled_from([0.5, 1.0, 3.0]),
                priority=st.sampled_from(["interactive", "batch"]),
            ),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(2, 8),
)
def test_everybody_ends_and_no_tick_is_left_empty(decodes: list[Decode], slots: int) -> None:
    used = serve(decodes, slots)
    assert all(d.ended is not None for d in decodes)
    assert sum(used) == sum(sum(d.rows) for d in decodes)


def share_of(one: Call, other: Call, slots: int = 4, ticks: int = 200) -> float:
    """The share of the rows that one of two gets, who both always have more to do than fits."""
    mine = [Decode([1] * 1000, call=one) for _ in range(20)]
    others = [Decode([1] * 1000, call=other) for _ in range(3 * slots)]
    serve([*others, *mine], slots, ticks)
    return sum(d.done for d in mine) / (slots * ticks)


@pytest.mark.parametrize(
    ("weight", "priority", "share"),
    [(1.0, "interactive", 0.5), (3.0, "interactive", 0.75), (1.0, "batch", 1 / 9)],
)
def test_tenants_share_by_weight_however_much_they_send(
    weight: float, priority: Priority, share: float
) -> None:
    one = Call(tenant="a", weight=weight, priority=priority)
    assert share_of(one, Call(tenant="b")) == pytest.approx(share, abs=0.02)


def test_what_a_tenant_does_not_use_is_no_credit() -> None:
    # One alone for long, or with one row a tick only, is owed nothing for that afterwards.
    trickle = [Decode([1] * 300, call=Call(tenant="a"))]
    rush = [Decode([1] * 1000, comes=300, call=Call(tenant="a")) for _ in range(16)]
    steady = [Decode([1] * 1000, call=Call(tenant="b")) for _ in range(16)]
    serve([*trickle, *rush, *steady], 4, 300)
    before = sum(d.done for d in steady)
    assert before == 3 * 300
    fresh_rush = [Decode([1] * 1000, comes=300, call=Call(tenant="a")) for _ in range(16)]
    trickle = [Decode([1] * 300, call=Call(tenant="a"))]
    steady = [Decode([1] * 1000, call=Call(tenant="b")) for _ in range(16)]
    serve([*trickle, *fresh_rush, *steady], 4, 400)
    assert sum(d.done for d in steady) - before == pytest.approx(200, abs=4)


def test_one_that_leaves_early_weighs_on_nobody() -> None:
    queue = FairQueue[Decode]()
    leaving, staying = Decode([1] * 1000), Decode([1] * 1000)
    queue.add(leaving)
    queue.add(staying)
    queue.remove(leaving)
    queue.remove(leaving)  # it has left already
    assert list(queue.order()) == [staying]
    assert queue.rows_left == 1000
    assert queue.ahead(Call(), 4) == (0, 0.0)
    assert queue.ahead(Call(tenant="b"), 4) == (0, 4.0)
    assert queue.ahead(Call(), 2000) == (1, 1000.0)


tenants = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 9)),
    min_size=1,
    max_size=6,
)


@given(tenants, st.integers(1, 5), tenants)
def test_a_tick_that_has_all_in_it_is_counted_as_any(
    first: list[tuple[str, float, int]], ticks: int, later: list[tuple[str, float, int]]
) -> None:
    def order(all_at_once: bool) -> list[list[int]]:
        queue, seen = FairQueue[Decode](), []
        numbers: dict[Decode, int] = {}

        def come(wishes: list[tuple[str, float, int]]) -> None:
            for name, weight, steps in wishes:
                decode = Decode([1] * steps, call=Call(tenant=name, weight=weight))
                numbers[decode] = len(numbers)
                queue.add(decode)

        come(first)
        for tick in range(ticks + 10):
            if tick == ticks:
                come(later)
            seen.append([numbers[decode] for decode in queue.order()])
            # Before others come all are in every tick, and two of them afterwards.
            given = list(queue.order())[: None if tick < ticks else 2]
            if all_at_once and tick < ticks:
                queue.give_all()
            else:
                queue.give(given)
            for decode in given:
                decode.done += 1
                if decode.done == len(decode.rows):
                    queue.remove(decode)
        return seen

    assert order(all_at_once=True) == order(all_at_once=False)


@dataclass(eq=False)
class Tiled(Decode):
    """A picture of some tiles, of one row each.

    Attributes:
        tiles: The tiles of a step.
        tile: Those of the step under way that are done.
    """

    tiles: int = 60
    tile: int = 0

    @property
    def ready_parts(self) -> int:
        return self.tiles - self.tile

    @property
    def rows_left(self) -> int:
        return self.tiles * (len(self.rows) - self.done) - self.tile


def serve_tiles(works: list[Decode], slots: int) -> None:
    """Make ticks until all is done."""
    times, queue = BucketTimes({slots: 1.0}), FairQueue[Decode]()
    for tick in itertools.count():
        for work in works:
            if work.comes == tick:
                queue.add(work)
        if not queue and all(work.comes <= tick for work in works):
            return
        offered = list(queue.order())
        if not offered:
            continue
        chosen = choose([work.ready_rows for work in offered], times).chosen
        jobs = [offered[index] for index in chosen]
        queue.give(jobs)
        for work in jobs:
            if isinstance(work, Tiled) and work.tile + 1 < work.tiles:
                work.tile += 1
                continue
            work.done += 1
            if isinstance(work, Tiled):
                work.tile = 0
            if work.done == len(work.rows):
                work.ended = tick + 1
                queue.remove(work)
        assert queue.rows_left == sum(work.rows_left for work in queue)


def test_the_tiles_of_a_picture_fill_the_ticks_that_nobody_else_wants() -> None:
    picture = Tiled([1] * 4)
    serve_tiles([picture], slots=16)
    assert picture.ended == 4 * 4  # three and three quarters for each step


def test_a_picture_does_not_hold_up_small_decodes_nor_they_it() -> None:
    picture = Tiled([1] * 10)
    small = [Decode([1] * 4, comes=tick) for tick in range(0, 400, 2)]
    serve_tiles([picture, *small], slots=4)
    # They leave half of each tick to the picture's 600 rows.
    assert picture.ended is not None
    assert picture.ended <= 600 / 2 + 10
    assert all(work.ended is not None and work.ended - work.comes <= 8 for work in small)


def test_tenants_share_ticks_with_a_picture_by_weight() -> None:
    picture = Tiled([1] * 10, call=Call(tenant="a"))
    others = [Decode([1] * 50, call=Call(tenant="b")) for _ in range(8)]
    serve_tiles([picture, *others], slots=8)
    # 400 rows of theirs, at four a tick beside four tiles.
    assert max(work.ended or 0 for work in others) <= 104
    assert picture.ended is not None
    assert picture.ended <= 600 / 4 - 20
