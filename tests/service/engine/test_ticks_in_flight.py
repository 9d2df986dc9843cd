"""A device that computes later than it is asked to: two ticks in flight, results in their time."""

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from flowmo.model.config import SamplerConfig
from flowmo.model.layout import PictureLayout
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Decoded, DecodeOptions, DecodeProgress, Watch
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import ComputeError
from tests.service.runners import Gated, run, some_tokens, until


class Later(Gated):
    """A runner whose every marker is reached when the test lets it."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.reached = threading.Semaphore(0)
        self.awaited = 0
        self.fails: Exception | None = None

    def record(self) -> "Later":
        return self

    def synchronize(self) -> None:
        self.awaited += 1
        if threading.current_thread().name == "flowmo-device" and self.free:
            assert self.reached.acquire(timeout=60)
            if self.fails is not None:
                raise self.fails

    free = False


def options(seed: int = 0, steps: int = 4) -> DecodeOptions:
    return DecodeOptions(seed=seed, sampler=SamplerConfig(steps=steps))


def _later(runner: Runner, work: Callable[[LocalEngines, Later], object]) -> None:
    later = Later(runner)

    async def begin(engines: LocalEngines) -> None:
        later.free = True
        await work(engines, later)  # type: ignore[misc]
        later.reached.release(1000)

    run(later, begin)


def test_two_ticks_are_in_flight_and_no_more(runner: Runner) -> None:
    async def work(engines: LocalEngines, later: Later) -> None:
        seen: list[DecodeProgress] = []
        watch = Watch(on_progress=seen.append, previews={2})
        task = asyncio.create_task(engines.decoder.decode(some_tokens(), options(), watch=watch))
        for made in range(4):
            begun = min(4, made + 2)
            await until(lambda begun=begun: len(later.batches) == begun)  # type: ignore[misc]
            await asyncio.sleep(0.02)
            assert len(later.batches) == begun
            assert len(seen) == made
            assert engines.decoder.queue_depth == 1
            assert not task.done()
            later.reached.release()
            await until(lambda made=made: len(seen) == made + 1)  # type: ignore[misc]
        decoded = await task
        assert [progress.preview is not None for progress in seen] == [False, True, False, False]
        assert len(decoded.timings.steps) == 4
        assert engines.decoder.queue_depth == 0

    _later(runner, work)


def test_a_picture_is_the_same_however_late_the_device_is(runner: Runner) -> None:
    pictures = []

    async def alone(engines: LocalEngines) -> None:
        for seed in range(6):
            decoded = await engines.decoder.decode(some_tokens(), options(seed, 3))
            pictures.append(decoded.pixels)

    run(runner, alone)

    async def work(engines: LocalEngines, later: Later) -> None:
        later.reached.release(1000)
        # One after the other, so that each is alone in its batches, and slots are used again.
        for seed in range(6):
            decoded = await engines.decoder.decode(some_tokens(), options(seed, 3))
            assert np.array_equal(decoded.pixels, pictures[seed])

    _later(runner, work)


def test_what_the_device_fails_at_later_fails_all_that_it_was_given(runner: Runner) -> None:
    async def work(engines: LocalEngines, later: Later) -> None:
        first = asyncio.create_task(engines.decoder.decode(some_tokens(), options(0, 1)))
        second = asyncio.create_task(engines.decoder.decode(some_tokens(), options(1, 100)))
        await until(lambda: len(later.batches) >= 2)
        later.fails = RuntimeError("a kernel failed")
        later.reached.release()
        for task in (first, second):
            with pytest.raises(ComputeError):
                await task
        later.fails = None
        later.reached.release(1000)
        await engines.decoder.decode(some_tokens(), options(2))
        assert engines.decoder.queue_depth == 0

    _later(runner, work)


LAYOUT = PictureLayout(width=110, height=80, tile_size=32, overlap=8)  # 15 tiles


def _picture(
    engines: LocalEngines, steps: int = 3, watch: Watch | None = None
) -> "asyncio.Task[Decoded]":
    ids = np.random.default_rng(0).integers(0, 16, (LAYOUT.tiles, 16, 3), dtype=np.int32)
    sampler = SamplerConfig(steps=steps, guidance=2.0)
    wish = DecodeOptions(seed=7, sampler=sampler, layout=LAYOUT)
    return asyncio.create_task(
        engines.decoder.decode(Tokens(ids=ids, group_bits=4), wish, watch=watch)
    )


def test_a_picture_of_many_tiles_is_the_same_however_late_the_device_is(runner: Runner) -> None:
    pictures = []

    async def alone(engines: LocalEngines) -> None:
        pictures.append((await _picture(engines)).pixels)

    run(runner, alone)

    async def work(engines: LocalEngines, later: Later) -> None:
        seen: list[DecodeProgress] = []
        task = _picture(engines, watch=Watch(on_progress=seen.append, previews={3}))
        square = asyncio.create_task(engines.decoder.decode(some_tokens(), options(1, 2)))
        await until(lambda: len(later.batches) == 2)
        assert not seen  # nothing is handed over before the device has made it
        later.reached.release(1000)
        decoded, _ = await asyncio.gather(task, square)
        difference = np.abs(decoded.pixels.astype(int) - pictures[0])
        assert (difference <= 1).mean() >= 0.999
        assert [one.step for one in seen] == [1, 2, 3]
        assert seen[-1].preview is not None
        assert np.abs(seen[-1].preview.astype(int) - decoded.pixels).max() <= 1
        assert len(decoded.timings.steps) == 3

    _later(runner, work)


def test_a_picture_that_is_left_or_fails_in_flight_leaves_nothing_behind(runner: Runner) -> None:
    async def work(engines: LocalEngines, later: Later) -> None:
        left = _picture(engines, steps=50)
        await until(lambda: len(later.batches) == 2)
        left.cancel()
        later.reached.release(1000)
        await until(lambda: engines.decoder.queue_depth == 0)
        while later.reached.acquire(blocking=False):
            pass
        later.batches.clear()
        fails = _picture(engines, steps=50)
        await until(lambda: len(later.batches) == 2)
        later.fails = RuntimeError("a kernel failed")
        later.reached.release()
        with pytest.raises(ComputeError):
            await fails
        later.fails = None
        later.reached.release(1000)
        await engines.decoder.decode(some_tokens(), options(2))
        assert engines.decoder.queue_depth == 0
        assert engines.decoder._pixels_inside == 0

    _later(runner, work)
