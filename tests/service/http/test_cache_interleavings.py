"""The cache under random interleavings: it counts what it holds, and serves whoever waits."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmo.service.engine.calls import Call, Priority
from flowmo.service.engine.shared_calls import following
from flowmo.service.errors import ComputeError, QueueFullError
from flowmo.service.http.cache import CacheEntry, CacheResult, SharedCache

MAX_BYTES = 10
SIZES = {"a": 3, "b": 5, "c": 4, "d": 11}


@dataclass(eq=False)
class Made:
    """One value in the making, and the calls that it was told to serve."""

    key: str
    gate: "asyncio.Future[None]"
    calls: list[Call] = field(default_factory=list)


@dataclass(eq=False)
class Asked:
    """One that asks, and what it waits for."""

    key: str
    call: Call
    task: "asyncio.Task[CacheResult[str]]"


class World:
    """A cache, those who ask it, and what is being made for them."""

    def __init__(self) -> None:
        self.cache = SharedCache[str](MAX_BYTES)
        self.made: list[Made] = []
        self.asked: list[Asked] = []

    async def make(self, key: str, call: Call) -> CacheEntry[str]:
        made = Made(key, asyncio.get_running_loop().create_future(), [call])
        self.made.append(made)
        with following(call, made.calls.append):
            await made.gate
        return CacheEntry(value=key, size=SIZES[key])

    def ask(self, key: str, seconds: float, priority: Priority) -> None:
        call = Call(deadline=time.monotonic() + seconds, priority=priority)
        got = self.cache.get(key, lambda call: self.make(key, call), call)
        self.asked.append(Asked(key, call, asyncio.create_task(got)))

    def leave(self, number: int) -> None:
        waiting = [asked for asked in self.asked if not asked.task.done()]
        if waiting:
            waiting[number % len(waiting)].task.cancel()

    def land(self, how: str, number: int) -> None:
        errors = {
            "finish": None,
            "fail": ComputeError("it failed"),
            "refuse": QueueFullError("full"),
        }
        if making := self.in_the_making:
            gate, error = making[number % len(making)].gate, errors[how]
            gate.set_result(None) if error is None else gate.set_exception(error)

    @property
    def in_the_making(self) -> list[Made]:
        return [made for made in self.made if not made.gate.done()]

    def check(self) -> None:
        entries = self.cache._entries
        sizes = [entry.size for entry in entries.values()]
        assert self.cache.size == sum(size for size in sizes if size is not None) <= MAX_BYTES
        assert len(self.cache) == len(entries)

    def check_at_rest(self) -> None:
        """When nothing is about to happen, everybody who waits is served by what is being made."""
        self.check()
        waiting = [asked for asked in self.asked if not asked.task.done()]
        assert {made.key for made in self.in_the_making} == {asked.key for asked in waiting}
        assert set(self.cache._flights) == {asked.key for asked in waiting}
        for key, flight in self.cache._flights.items():
            own = [asked for asked in waiting if asked.key == key]
            assert flight.waiters == len(own)
            (made,) = (made for made in self.in_the_making if made.key == key)
            serving = made.calls[-1]
            assert serving.deadline >= max(asked.call.deadline for asked in own)
            if any(asked.call.priority == "interactive" for asked in own):
                assert serving.priority == "interactive"


Action = tuple[str, int, int, Priority]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "leave", "finish", "fail", "refuse", "step", "rest"]),
        st.integers(0, 3),
        st.integers(0, 5),
        st.sampled_from(get_args(Priority)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(ACTIONS)
def test_it_counts_what_it_holds_and_serves_whoever_waits(actions: Sequence[Action]) -> None:
    async def main() -> None:
        world = World()
        for name, which, number, priority in actions:
            if name == "ask":
                world.ask("abcd"[which], 100.0 + number, priority)
            elif name == "leave":
                world.leave(number)
            elif name == "step":
                await asyncio.sleep(0)
            elif name == "rest":
                await rest()
                world.check_at_rest()
            else:
                world.land(name, number)
            world.check()
        await rest()
        world.check_at_rest()
        while world.in_the_making:  # a refusal was one's own: the next one makes it
            for made in world.in_the_making:
                made.gate.set_result(None)
            await rest()
            world.check_at_rest()
        for asked in world.asked:
            assert asked.task.done()
            if not asked.task.cancelled() and asked.task.exception() is None:
                assert asked.task.result().value == asked.key
        assert not world.cache._flights

    asyncio.run(main())


async def rest() -> None:
    """Let everything that can happen by itself happen."""
    for _ in range(12):
        await asyncio.sleep(0)
