"""Work on image files: so much at once, even when its request has left."""

import asyncio
import threading

import pytest

from flowmo.service.http.image_threads import ImageThreads
from flowmo.service.http.stage_clock import StageClock
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics
from tests.service.runners import until


@pytest.fixture
def clock() -> StageClock:
    return StageClock(Metrics(PrometheusInstruments()), "nano")


def test_work_whose_request_has_left_keeps_its_slot_until_it_ends(clock: StageClock) -> None:
    entered, gate = threading.Event(), threading.Event()

    def slow() -> str:
        entered.set()
        assert gate.wait(60)
        return "slow"

    async def main() -> None:
        threads = ImageThreads(1)
        left = asyncio.create_task(threads.run(slow, "decode_image", clock))
        await until(entered.is_set)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        ran = threading.Event()
        second = asyncio.create_task(threads.run(ran.set, "encode_image", clock))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not ran.is_set()
        gate.set()
        await second
        assert ran.is_set()

    asyncio.run(main())
    assert list(clock.seconds) == ["encode_image"]


def test_an_error_is_the_callers_and_frees_the_slot(clock: StageClock) -> None:
    def broken() -> None:
        raise ValueError("no image")

    async def main() -> None:
        threads = ImageThreads(1)
        for _ in range(2):
            with pytest.raises(ValueError, match="no image"):
                await threads.run(broken, "decode_image", clock)

    asyncio.run(main())
