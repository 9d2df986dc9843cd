"""Batches larger than the engines' queues wait for room instead of failing by halves."""

import asyncio
import base64
import time

import httpx
import pytest

from flowmo.model.container import MEDIA_TYPE
from flowmo.service.engine.calls import Call
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import DeadlineExceededError, QueueFullError
from flowmo.service.http.item_feed import ItemFeed, item_capacity, when_there_is_room
from flowmo.service.settings import Settings
from tests.service.runners import Gated, client_of, until


@pytest.mark.parametrize(
    ("queue", "requests", "items"), [(256, 64, 192), (64, 64, 32), (1, 64, 1), (100, 20, 80)]
)
def test_items_leave_room_for_single_pictures(queue: int, requests: int, items: int) -> None:
    assert item_capacity(queue, requests) == items


def test_eight_full_batches_are_done_and_single_pictures_come_in_between(
    runner: Runner, container: bytes
) -> None:
    gated = Gated(runner)
    item = {"container": base64.b64encode(container).decode()}

    async def main() -> None:
        async with client_of(gated, Settings(cache_bytes=0)) as client:
            (served,) = client._transport.app.state.service.models  # type: ignore[attr-defined]

            async def batch(number: int) -> httpx.Response:
                items = [item | {"seed": 64 * number + index} for index in range(64)]
                return await client.post("/v1/detokenize/batch", json={"items": items, "steps": 1})

            gated.gate.clear()
            batches = [asyncio.create_task(batch(number)) for number in range(8)]
            await until(lambda: served.engines.waiting == 192)
            singles = [
                asyncio.create_task(
                    client.post(
                        "/v1/detokenize",
                        content=container,
                        headers={"Content-Type": MEDIA_TYPE},
                        params={"steps": 1},
                    )
                )
                for _ in range(56)
            ]
            await until(lambda: served.engines.waiting == 192 + 56)
            gated.gate.set()
            assert {(await single).status_code for single in singles} == {200}
            answers = [(await one).json() for one in batches]
            assert [answer["succeeded"] for answer in answers] == [64] * 8

    asyncio.run(asyncio.wait_for(main(), 120))


def test_rows_of_the_inference_protocol_wait_for_room(runner: Runner) -> None:
    gated = Gated(runner)
    ids = {"name": "ids", "shape": [64, 16, 3], "datatype": "INT32", "data": [7] * (64 * 16 * 3)}
    body = {"inputs": [ids], "parameters": {"steps": 1}}

    async def main() -> None:
        settings = Settings(cache_bytes=0, max_queued_requests=8)
        async with client_of(gated, settings, max_queued_requests=8) as client:
            asked = [client.post("/v2/models/detokenize/infer", json=body) for _ in range(3)]
            answers = await asyncio.gather(*asked)
            assert [answer.status_code for answer in answers] == [200] * 3

    asyncio.run(asyncio.wait_for(main(), 120))


def test_an_item_waits_no_longer_than_its_deadline() -> None:
    async def main() -> None:
        feed, gate = ItemFeed(1), asyncio.Event()

        async def work() -> str:
            await gate.wait()
            return "done"

        first = asyncio.create_task(feed.run(Call(), work))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceededError):
            await feed.run(Call(deadline=time.monotonic()), work)
        gate.set()
        assert await first == "done"
        assert await feed.run(Call(), work) == "done"

        async def full(call: Call) -> str:
            raise QueueFullError("256 decodes are inside")

        with pytest.raises(DeadlineExceededError, match="256 decodes"):
            await when_there_is_room(Call(deadline=time.monotonic()), full)

    asyncio.run(asyncio.wait_for(main(), 60))
