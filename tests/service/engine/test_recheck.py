"""A device that was measured on a busy machine is not thought slow for ever."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call, DecodeOptions
from flowmo.service.engine.health import DeviceHealth
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.recheck import RECHECK_SECONDS, Recheck
from flowmo.service.engine.runner import Runner
from flowmo.service.engine.schedule import BucketTimes
from flowmo.service.errors import DeadlineUnreachableError
from tests.service.runners import Gated, run, some_tokens

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 20.0


class Slowed(Gated):
    """A device that is slow until it is told otherwise."""

    seconds = 0.3

    def velocity(self, x: "Tensor", times: Sequence[float], condition: "Tensor") -> "Tensor":
        time.sleep(self.seconds)
        return super().velocity(x, times, condition)

    def encode(self, pixels: Pixels) -> list[Tokens]:
        time.sleep(self.seconds)
        return super().encode(pixels)


async def _decode(engines: LocalEngines) -> None:
    sampler = SamplerConfig(steps=400)
    call = Call(deadline=time.monotonic() + PATIENCE)
    await engines.decoder.decode(some_tokens(), DecodeOptions(seed=0, sampler=sampler), call)


async def _encode(engines: LocalEngines) -> None:
    call = Call(deadline=time.monotonic() + 0.25)
    await engines.encoder.encode(np.zeros((32, 32, 3), np.uint8), call)


@pytest.mark.parametrize("work", [_decode, _encode])
def test_what_an_idle_device_was_refused_for_is_measured_again(
    runner: Runner, work: Callable[[LocalEngines], Awaitable[None]]
) -> None:
    slowed = Slowed(runner, buckets=[2])

    async def requests(engines: LocalEngines) -> None:
        slowed.seconds = 0.0
        with pytest.raises(DeadlineUnreachableError):
            await work(engines)
        batches = len(slowed.batches) + len(slowed.encoded)
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                await work(engines)
            except DeadlineUnreachableError:
                assert time.monotonic() < give_up, "the estimate stayed what it was"
                await asyncio.sleep(0.01)
            else:
                break
        assert len(slowed.batches) + len(slowed.encoded) > batches

    run(slowed, requests)


def test_it_is_measured_now_and_then_only() -> None:
    now = 100.0
    measured: list[int] = []

    def seconds_of(bucket: int) -> float:
        measured.append(bucket)
        return 0.5

    times = BucketTimes({2: 8.0, 4: 12.0})
    recheck = Recheck(seconds_of, lambda: now)
    assert recheck.ask()
    assert not recheck.ask()  # it is due already
    recheck.run(times, DeviceHealth(), "decoder")
    assert set(measured) == {2}
    assert times.seconds(2) == 0.5
    assert times.seconds(4) == 0.75
    assert not recheck.ask()
    now += RECHECK_SECONDS
    assert recheck.ask()
