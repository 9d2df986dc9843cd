"""The cache of pictures: alone, and behind the routes."""

import asyncio

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.model.container import MEDIA_TYPE
from flowmo.service.engine.calls import NO_DEADLINE, Call
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import ComputeError, DeadlineExceededError
from flowmo.service.http.cache import CacheEntry, CacheResult, Make, SharedCache
from flowmo.service.settings import Settings
from tests.service.runners import Gated, client_of, until


class Maker:
    """Counts what is made; each waits for the gate."""

    def __init__(self) -> None:
        self.made = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    def of(self, value: str, size: int | None = 1) -> Make[str]:
        async def make(call: Call) -> CacheEntry[str]:
            self.made += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if self.error is not None:
                raise self.error
            return CacheEntry(value=value, size=size)

        return make


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=60))
def test_it_never_holds_more_than_it_may(requests: list[tuple[int, int]]) -> None:
    async def main() -> None:
        cache = SharedCache[int](100)
        sizes: dict[int, int] = {}
        for key, wished in requests:
            size = sizes.setdefault(key, wished)

            async def make(_: Call, key: int = key, size: int = size) -> CacheEntry[int]:
                return CacheEntry(value=key, size=size)

            found = await cache.get(key, make, NO_DEADLINE)
            assert found.value == key
            assert cache.size <= 100
            # What was asked for last is there.
            assert await cache.get(key, make, NO_DEADLINE) == CacheResult(value=key, outcome="hit")

    asyncio.run(main())


def test_the_least_recently_used_goes_first() -> None:
    async def main() -> None:
        cache, maker = SharedCache[str](2), Maker()
        maker.gate.set()
        for key in "abac":
            await cache.get(key, maker.of(key), NO_DEADLINE)
        outcomes = [(await cache.get(key, maker.of(key), NO_DEADLINE)).outcome for key in "acb"]
        assert outcomes == ["hit", "hit", "miss"]

    asyncio.run(main())


def test_what_is_too_large_or_not_to_be_kept_is_made_again() -> None:
    async def main() -> None:
        cache, maker = SharedCache[str](10), Maker()
        maker.gate.set()
        for size in (11, None):
            for _ in range(2):
                assert (await cache.get(size, maker.of("x", size), NO_DEADLINE)).outcome == "miss"
        assert (maker.made, cache.size, len(cache)) == (4, 0, 0)

    asyncio.run(main())


def test_several_wait_for_one_and_one_that_leaves_takes_nothing_from_the_others() -> None:
    async def main() -> None:
        cache, maker = SharedCache[str](10), Maker()
        tasks = [asyncio.create_task(cache.get("a", maker.of("x"), NO_DEADLINE)) for _ in range(4)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # the one that began it
        await asyncio.sleep(0)
        maker.gate.set()
        others = await asyncio.gather(*tasks[1:])
        assert others == [CacheResult(value="x", outcome="shared")] * 3
        assert (maker.made, maker.cancelled) == (1, 0)

    asyncio.run(main())


def test_when_all_have_left_the_making_ends_and_a_newcomer_begins_anew() -> None:
    async def main() -> None:
        cache, maker = SharedCache[str](10), Maker()
        tasks = [asyncio.create_task(cache.get("a", maker.of("x"), NO_DEADLINE)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        newcomer = asyncio.create_task(cache.get("a", maker.of("y"), NO_DEADLINE))
        maker.gate.set()
        assert await newcomer == CacheResult(value="y", outcome="miss")
        assert (maker.made, maker.cancelled) == (2, 1)

    asyncio.run(main())


def test_the_first_ones_deadline_is_not_the_others() -> None:
    async def main() -> None:
        cache, first, second = SharedCache[str](10), Maker(), Maker()
        first.error = DeadlineExceededError("too late")
        second.gate.set()
        hasty = asyncio.create_task(cache.get("a", first.of("x"), NO_DEADLINE))
        await asyncio.sleep(0)
        patient = asyncio.create_task(cache.get("a", second.of("y"), NO_DEADLINE))
        await asyncio.sleep(0)
        first.gate.set()
        with pytest.raises(DeadlineExceededError):
            await hasty
        assert await patient == CacheResult(value="y", outcome="miss")

    asyncio.run(main())


def test_a_failure_is_everybodys_and_is_not_kept() -> None:
    async def main() -> None:
        cache, maker = SharedCache[str](10), Maker()
        maker.error = ComputeError("the device failed")
        tasks = [asyncio.create_task(cache.get("a", maker.of("x"), NO_DEADLINE)) for _ in range(2)]
        await asyncio.sleep(0)
        maker.gate.set()
        for task in tasks:
            with pytest.raises(ComputeError):
                await task
        maker.error = None
        assert await cache.get("a", maker.of("z"), NO_DEADLINE) == CacheResult(
            value="z", outcome="miss"
        )

    asyncio.run(main())


def test_requests_for_the_same_picture_share_one_decode(runner: Runner, container: bytes) -> None:
    gated = Gated(runner)

    async def ask(client: httpx.AsyncClient, **params: str | int) -> httpx.Response:
        answer = await client.post(
            "/v1/detokenize", content=container, headers={"Content-Type": MEDIA_TYPE}, params=params
        )
        assert answer.status_code == 200, answer.text
        return answer

    async def main() -> None:
        async with client_of(gated) as client:
            gated.gate.clear()
            same = [asyncio.create_task(ask(client, seed=5)) for _ in range(3)]
            other = asyncio.create_task(ask(client, seed=6))
            await until(gated.entered.is_set)
            gated.gate.set()
            answers = [await task for task in same]
            assert len({answer.content for answer in answers}) == 1
            assert (await other).content != answers[0].content
            # One decode a seed, whoever asked.
            assert sorted(gated.begun) == [5, 6]
            outcomes = sorted(answer.headers["Flowmo-Cache"] for answer in answers)
            assert outcomes == ["miss", "shared", "shared"]
            kept = await ask(client, seed=5)
            assert kept.headers["Flowmo-Cache"] == "hit"
            assert kept.content == answers[0].content
            assert "sample" not in kept.headers["Server-Timing"]
            # Anything that changes the picture or its file is another one.
            for change in ({"steps": 3}, {"guidance": 2.0}, {"quality": 50}, {"model": "nano"}):
                changed = await ask(client, seed=5, **change)
                same_picture = "model" in change
                assert (changed.headers["Flowmo-Cache"] == "hit") == same_picture

    asyncio.run(main())


def test_none_is_kept_where_that_was_chosen(runner: Runner, container: bytes) -> None:
    gated = Gated(runner)

    async def main() -> None:
        async with client_of(gated, Settings(cache_bytes=0)) as client:
            for _ in range(2):
                answer = await client.post(
                    "/v1/detokenize", content=container, headers={"Content-Type": MEDIA_TYPE}
                )
                assert answer.headers["Flowmo-Cache"] == "miss"
            assert gated.begun == [0, 0]

    asyncio.run(main())
