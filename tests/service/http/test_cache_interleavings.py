"""The cache under random interleavings: it counts what it holds, and serves whoever waits.

Whoever asks may leave, and whatever is made may fail or be refused, between any two steps of the
event loop: before the making has begun, while it decodes, while it writes the picture, while it is
being given up, and when it is done and nobody has heard of it yet.
"""

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

    @property
    def own(self) -> bool:
        """Whether it is made for one who would not wait for what others wait for."""
        return self.calls[0].shared is None


@dataclass(eq=False)
class Asked:
    """One that asks, and what it waits for."""

    key: str
    call: Call
    task: "asyncio.Task[CacheResult[str]]"
    left: bool = False


class World:
    """A cache, those who ask it, and what is being made for them."""

    def __init__(self) -> None:
        self.cache = SharedCache[str](MAX_BYTES)
        self.made: list[Made] = []
        self.asked: list[Asked] = []
        self.begun = time.monotonic()
        self.refusing = False  # what is begun, before its first wait

    async def make(self, key: str, call: Call) -> CacheEntry[str]:
        made = Made(key, asyncio.get_running_loop().create_future(), [call])
        self.made.append(made)
        if self.refusing:
            made.gate.set_exception(QueueFullError("full"))
        try:
            with following(call, made.calls.append):
                await made.gate  # it decodes
            await asyncio.sleep(0)  # and writes the picture
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # it is not given up at once
            raise
        return CacheEntry(value=key, size=SIZES[key])

    def ask(self, key: str, seconds: float, priority: Priority, *, impatient: bool) -> None:
        call = Call(deadline=self.begun + seconds, priority=priority)
        got = self.cache.get(key, lambda call: self.make(key, call), call, impatient=impatient)
        self.asked.append(Asked(key, call, asyncio.create_task(got)))

    def leave(self, number: int) -> None:
        waiting = [asked for asked in self.asked if not asked.task.done()]
        if waiting:
            leaving = waiting[number % len(waiting)]
            leaving.left = True
            leaving.task.cancel()

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
        own = {id(made.calls[0]) for made in self.in_the_making if made.own}
        shared = [made for made in self.in_the_making if not made.own]
        everybody = [asked for asked in self.asked if not asked.task.done()]
        waiting = [asked for asked in everybody if id(asked.call) not in own]
        # What is made for one alone is made for one who is still there.
        assert len(own) == len(everybody) - len(waiting)
        assert {made.key for made in shared} == {asked.key for asked in waiting}
        assert set(self.cache._flights) == {asked.key for asked in waiting}
        for key, flight in self.cache._flights.items():
            its = [asked for asked in waiting if asked.key == key]
            assert flight.waiters == len(its)
            (made,) = (made for made in shared if made.key == key)
            serving = made.calls[-1]
            assert serving.deadline >= max(asked.call.deadline for asked in its)
            if any(asked.call.priority == "interactive" for asked in its):
                assert serving.priority == "interactive"


# Asking and a single step of the event loop are frequent, so that something happens at every await.
ACTION_NAMES = (
    *("ask", "ask", "ask", "hurry", "leave", "finish", "fail", "refuse"),
    *("step", "step", "rest", "refuse at once"),
)
Action = tuple[str, int, int, Priority]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(ACTION_NAMES),
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
            world.refusing = name == "refuse at once"
            if name in {"ask", "hurry", "refuse at once"}:
                seconds, impatient = 100.0 + number, name == "hurry"
                world.ask("abcd"[which], seconds, priority, impatient=impatient)
                if world.refusing:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    world.refusing = False
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
            assert asked.left or not asked.task.cancelled()  # nobody is given up with another
            if not asked.task.cancelled() and asked.task.exception() is None:
                assert asked.task.result().value == asked.key
        assert not world.cache._flights

    asyncio.run(main())


async def rest() -> None:
    """Let everything that can happen by itself happen."""
    for _ in range(12):
        await asyncio.sleep(0)
