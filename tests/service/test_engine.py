"""The engine over a real model: order, refusal, cancellation, failures."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from model.config import SamplerConfig
from model.errors import TokenError
from model.tokens import Tokens
from service.codec import Codec, CodecInfo
from service.engine import DecodeOptions, Engine
from service.errors import EngineStoppedError, QueueFullError
from service.images import Pixels
from tests.service.fixtures import CONFIG
from tests.service.pictures import gradient

if TYPE_CHECKING:
    from model.sampler import Observer

PICTURE = gradient(32, 32)
OPTIONS = DecodeOptions(seed=0, sampler=CONFIG.sampler)


class Gated:
    """The real codec behind a gate, with a record of what ran."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.warm_up_gate = threading.Event()
        self.warm_up_gate.set()
        self.warm_up_error: Exception | None = None
        self.seeds: list[int] = []
        self.steps = 0

    @property
    def info(self) -> CodecInfo:
        return self._codec.info

    def tokenize(self, pixels: Pixels) -> list[Tokens]:
        self.entered.set()
        assert self.gate.wait(60)
        return self._codec.tokenize(pixels)

    def detokenize(
        self,
        tokens: Sequence[Tokens],
        *,
        seeds: Sequence[int],
        sampler: SamplerConfig,
        observer: "Observer | None" = None,
    ) -> Pixels:
        self.seeds.extend(seeds)
        self.entered.set()
        assert self.gate.wait(60)
        assert observer is not None

        def count(preview: object) -> None:
            self.steps += 1
            observer(preview)  # type: ignore[arg-type]

        return self._codec.detokenize(tokens, seeds=seeds, sampler=sampler, observer=count)

    def warm_up(self) -> None:
        assert self.warm_up_gate.wait(60)
        if self.warm_up_error is not None:
            raise self.warm_up_error
        self._codec.warm_up()


@pytest.fixture
def gated(codec: Codec) -> Gated:
    return Gated(codec)


def run(codec: Codec, work: Callable[[Engine], Awaitable[None]], *, capacity: int = 8) -> None:
    """``work`` with a started engine."""

    async def main() -> None:
        engine = Engine(codec, capacity=capacity)
        engine.start()
        try:
            await work(engine)
        finally:
            await engine.close()
        assert not engine.alive

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  (threads change it)
            await asyncio.sleep(0.005)


def some_tokens() -> Tokens:
    return Tokens(ids=np.full((16, 3), 7, np.int32), group_bits=4)


def options(seed: int, steps: int = 4) -> DecodeOptions:
    return DecodeOptions(seed=seed, sampler=SamplerConfig(steps=steps))


def test_results_are_the_codecs_and_timed(codec: Codec) -> None:
    async def work(engine: Engine) -> None:
        encoded = await engine.encode(PICTURE)
        (expected,) = codec.tokenize(PICTURE[None])
        assert np.array_equal(encoded.tokens.ids, expected.ids)
        decoded = await engine.decode(expected, OPTIONS)
        (pixels,) = codec.detokenize([expected], seeds=[0], sampler=CONFIG.sampler)
        assert np.array_equal(decoded.pixels, pixels)
        assert encoded.timings.run > 0
        assert encoded.timings.queue >= 0
        assert len(decoded.timings.steps) == CONFIG.sampler.steps
        assert sum(decoded.timings.steps) <= decoded.timings.run

    run(codec, work)


def test_work_is_done_in_the_order_it_came(gated: Gated) -> None:
    async def work(engine: Engine) -> None:
        await asyncio.gather(*(engine.decode(some_tokens(), options(s)) for s in range(6)))
        assert gated.seeds == list(range(6))

    run(gated, work)


def test_work_of_clients_that_left_is_skipped(gated: Gated) -> None:
    async def work(engine: Engine) -> None:
        gated.gate.clear()
        first = asyncio.create_task(engine.encode(PICTURE))
        second = asyncio.create_task(engine.decode(some_tokens(), options(1)))
        third = asyncio.create_task(engine.decode(some_tokens(), options(2)))
        await until(gated.entered.is_set)
        assert engine.waiting == 2
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gated.gate.set()
        await asyncio.gather(first, third)
        assert gated.seeds == [2]

    run(gated, work)


def test_a_running_decode_stops_at_its_next_step(gated: Gated) -> None:
    async def work(engine: Engine) -> None:
        task = asyncio.create_task(engine.decode(some_tokens(), options(0, steps=1000)))
        await until(lambda: gated.steps > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The next one can only run when the first has stopped.
        await engine.decode(some_tokens(), options(1, steps=1))
        assert gated.steps < 1000

    run(gated, work)


def test_a_failure_is_its_own_requests(gated: Gated) -> None:
    async def work(engine: Engine) -> None:
        wrong = Tokens(ids=np.zeros((5, 3), np.int32), group_bits=4)
        results = await asyncio.gather(
            engine.decode(some_tokens(), options(0)),
            engine.decode(wrong, options(1)),
            engine.decode(some_tokens(), options(0)),
            return_exceptions=True,
        )
        assert isinstance(results[1], TokenError)
        assert not isinstance(results[0], BaseException)
        assert not isinstance(results[2], BaseException)
        assert np.array_equal(results[0].pixels, results[2].pixels)
        assert engine.alive

    run(gated, work)


def test_places_are_bounded_and_given_back(codec: Codec) -> None:
    async def work(engine: Engine) -> None:
        with engine.admit(), engine.admit():
            assert engine.admitted == 2
            with pytest.raises(QueueFullError) as caught, engine.admit():
                pass
            assert caught.value.retry_after >= 1
        assert engine.admitted == 0
        with pytest.raises(RuntimeError, match="mine"), engine.admit():
            raise RuntimeError("mine")
        assert engine.admitted == 0

    run(codec, work, capacity=2)


def test_it_is_ready_after_the_warm_up_only(gated: Gated) -> None:
    async def work(engine: Engine) -> None:
        assert engine.alive
        assert not engine.ready
        early = asyncio.create_task(engine.encode(PICTURE))
        gated.warm_up_gate.set()
        await early
        assert engine.ready

    gated.warm_up_gate.clear()
    run(gated, work)


def test_a_failed_warm_up_refuses_everything(
    gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(engine: Engine) -> None:
        early = asyncio.create_task(engine.encode(PICTURE))
        await asyncio.sleep(0)
        gated.warm_up_gate.set()
        with pytest.raises(EngineStoppedError):
            await early
        assert not engine.ready
        assert not engine.alive
        with pytest.raises(EngineStoppedError):
            await engine.encode(PICTURE)

    gated.warm_up_gate.clear()
    gated.warm_up_error = RuntimeError("no such kernel")
    run(gated, work)
    assert "no such kernel" in caplog.text


def test_closing_finishes_what_was_submitted(gated: Gated) -> None:
    async def main() -> None:
        engine = Engine(gated)
        engine.start()
        tasks = [asyncio.create_task(engine.decode(some_tokens(), options(s))) for s in range(4)]
        await asyncio.sleep(0)
        await engine.close()
        decoded = await asyncio.gather(*tasks)
        assert len(decoded) == 4
        with pytest.raises(EngineStoppedError):
            await engine.encode(PICTURE)

    asyncio.run(main())
