"""The encoder's engine over a real model: micro-batches, refusal, cancellation, the warm-up."""

import asyncio
import time

import numpy as np
import pytest

from flowmo.model.inference import InferenceModel
from flowmo.service.engine.calls import Call
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import (
    ComputeError,
    DeadlineUnreachableError,
    EngineStoppedError,
    QueueFullError,
)
from tests.service.models import tokens_of
from tests.service.pictures import gradient
from tests.service.runners import Gated, Recorder, run, until

PICTURE = gradient(32, 32)


@pytest.fixture
def gated(runner: Runner) -> Gated:
    return Gated(runner)


def test_tokens_are_the_models_whoever_shares_the_batch(
    runner: Runner, inference_model: InferenceModel
) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        pictures = [np.roll(PICTURE, shift, axis=1) for shift in range(20)]
        results = await asyncio.gather(*(engines.encoder.encode(picture) for picture in pictures))
        for picture, encoded in zip(pictures, results, strict=True):
            (alone,) = tokens_of(inference_model, picture[None])
            # A code that is zero but for rounding may fall on either side.
            assert (encoded.tokens.ids != alone.ids).mean() <= 0.05
            assert encoded.timings.run > 0
            assert encoded.timings.queue >= 0

    run(runner, work, observer=recorder)
    assert sum(rows for _, rows, _ in recorder.batches) == 20
    assert len(recorder.batches) < 20


def test_what_waits_to_be_encoded_is_backlog_of_the_process(gated: Gated) -> None:
    """An autoscaler that sees decodes alone leaves clients that only tokenize with 429."""

    async def work(engines: LocalEngines) -> None:
        assert engines.backlog_seconds == 0
        gated.gate.clear()
        tasks = [asyncio.create_task(engines.encoder.encode(PICTURE))]
        await until(gated.entered.is_set)
        tasks += [asyncio.create_task(engines.encoder.encode(PICTURE)) for _ in range(4)]
        await until(lambda: engines.encoder.queue_depth == 4)
        assert engines.backlog_seconds == engines.encoder.backlog_seconds > 0
        gated.gate.set()
        await asyncio.gather(*tasks)

    run(gated, work)


def test_clients_that_left_are_skipped(gated: Gated) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        gated.gate.clear()
        first = asyncio.create_task(engines.encoder.encode(PICTURE))
        await until(gated.entered.is_set)
        others = [asyncio.create_task(engines.encoder.encode(PICTURE)) for _ in range(3)]
        await until(lambda: engines.encoder.queue_depth == 3)
        others[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await others[1]
        gated.gate.set()
        await asyncio.gather(first, others[0], others[2])

    run(gated, work, observer=recorder)
    assert sum(rows for _, rows, _ in recorder.batches) == 3
    assert recorder.saved == [1]


def test_pictures_that_somebody_waits_for_go_before_batch_work_that_came_first(
    runner: Runner,
) -> None:
    gated = Gated(runner, buckets=[2])
    ended: list[str] = []

    async def work(engines: LocalEngines) -> None:
        async def one(name: str, call: Call) -> None:
            await engines.encoder.encode(PICTURE, call)
            ended.append(name)

        gated.gate.clear()
        batch = Call(tenant="a", priority="batch")
        tasks = [asyncio.create_task(one("first", batch))]
        await until(gated.entered.is_set)
        calls = [("batch", batch)] * 5 + [("a", Call(tenant="a")), ("b", Call(tenant="b"))]
        for count, (name, call) in enumerate(calls, start=1):
            tasks.append(asyncio.create_task(one(name, call)))
            await until(lambda count=count: engines.encoder.queue_depth == count)  # type: ignore[misc]
        gated.gate.set()
        await asyncio.gather(*tasks)

    run(gated, work)
    assert ended == ["first", "a", "b", *["batch"] * 5]


def test_a_full_queue_and_a_hopeless_deadline_are_refused(gated: Gated) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        with pytest.raises(DeadlineUnreachableError):
            await engines.encoder.encode(PICTURE, Call(deadline=time.monotonic() - 1))
        gated.gate.clear()
        first = asyncio.create_task(engines.encoder.encode(PICTURE))
        await until(gated.entered.is_set)
        second = asyncio.create_task(engines.encoder.encode(PICTURE))
        await until(lambda: engines.encoder.queue_depth == 1)
        with pytest.raises(QueueFullError):
            await engines.encoder.encode(PICTURE)
        gated.gate.set()
        await asyncio.gather(first, second)

    run(gated, work, observer=recorder, max_queued_requests=1)
    assert recorder.refusals == [("encoder", "deadline"), ("encoder", "queue-full")]


def test_a_failure_is_its_batchs_own(gated: Gated) -> None:
    async def work(engines: LocalEngines) -> None:
        gated.error = RuntimeError("no such kernel image")
        with pytest.raises(ComputeError):
            await engines.encoder.encode(PICTURE)
        gated.error = None
        await engines.encoder.encode(PICTURE)
        assert engines.alive

    run(gated, work)


def test_it_is_ready_after_the_warm_up_only(gated: Gated) -> None:
    async def main() -> None:
        gated.warm_up_gate.clear()
        engines = LocalEngines(gated, gated)
        engines.start()
        assert engines.alive
        early = asyncio.create_task(engines.encoder.encode(PICTURE))
        await asyncio.sleep(0.05)
        assert not engines.ready
        assert not early.done()
        gated.warm_up_gate.set()
        await early
        assert engines.ready
        await engines.close()  # type: ignore[unreachable]

    asyncio.run(main())


def test_a_failed_warm_up_refuses_everything(
    gated: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        gated.error = RuntimeError("no such kernel")
        engines = LocalEngines(gated, gated)
        engines.start()
        with pytest.raises(EngineStoppedError):
            await engines.encoder.encode(PICTURE)
        assert not engines.ready
        assert not engines.alive
        with pytest.raises(EngineStoppedError):
            await engines.encoder.encode(PICTURE)

    asyncio.run(main())
    assert "no such kernel" in caplog.text
