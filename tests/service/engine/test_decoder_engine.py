"""The step engine over a real model: mixtures, order, cancellation, deadlines, failures."""

import asyncio
import random
import time
from dataclasses import replace

import numpy as np
import pytest

from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import TokenError
from flowmo.model.inference import InferenceModel
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    Batching,
    Call,
    Decoded,
    DecodeOptions,
    DecodeProgress,
    Priority,
    Watch,
)
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.runner import Runner
from flowmo.service.engine.schedule import Load
from flowmo.service.errors import (
    ComputeError,
    DeadlineExceededError,
    DeadlineUnreachableError,
    EngineStoppedError,
    QueueFullError,
)
from tests.service.models import pictures_of
from tests.service.runners import Gated, Recorder, run, some_tokens, until


def options(
    seed: int = 0, steps: int = 4, guidance: float = 1.0, *, degrade: bool = False
) -> DecodeOptions:
    sampler = SamplerConfig(steps=steps, guidance=guidance)
    return DecodeOptions(seed=seed, sampler=sampler, degrade=degrade)


def is_same_picture(one: Pixels, other: Pixels) -> bool:
    """Within one level for at least 99.9 % of the values."""
    return bool((np.abs(one.astype(int) - other) <= 1).mean() >= 0.999)


@pytest.fixture
def gated(runner: Runner) -> Gated:
    return Gated(runner)


def test_pictures_in_random_mixtures_are_those_decoded_alone(
    runner: Runner, inference_model: InferenceModel
) -> None:
    choice = random.Random(0)
    wanted = []
    for seed in range(24):
        sampler = SamplerConfig(
            steps=choice.choice([1, 2, 5, 9, 16]),
            schedule=choice.choice(["power", "linear", "merged"]),
            guidance=choice.choice([1.0, 1.5, 4.0]),
        )
        ids = np.random.default_rng(seed).integers(0, 16, (16, 3), dtype=np.int32)
        wanted.append((Tokens(ids=ids, group_bits=4), DecodeOptions(seed=seed, sampler=sampler)))
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        async def one(tokens: Tokens, wish: DecodeOptions) -> Decoded:
            await asyncio.sleep(choice.random() * 0.05)
            return await engines.decoder.decode(tokens, wish)

        results = await asyncio.gather(*(one(*item) for item in wanted))
        for (tokens, wish), came in zip(wanted, results, strict=True):
            (alone,) = pictures_of(
                inference_model, [tokens], seeds=[wish.seed], sampler=wish.sampler
            )
            assert is_same_picture(came.pixels, alone)
            assert came.sampler == wish.sampler
            assert len(came.timings.steps) == wish.sampler.steps
            assert 0 < sum(came.timings.steps) <= came.timings.run + 1e-6
        assert engines.decoder.queue_depth == 0

    run(runner, work, observer=recorder)
    # They did share batches.
    assert max(rows for _, rows, _ in recorder.batches) > 2


def test_rows_of_one_tick_are_at_different_steps(gated: Gated) -> None:
    async def work(engines: LocalEngines) -> None:
        gated.gate.clear()
        first = asyncio.create_task(engines.decoder.decode(some_tokens(), options(0, 4)))
        await until(gated.entered.is_set)
        second = asyncio.create_task(engines.decoder.decode(some_tokens(), options(1, 3)))
        await until(lambda: engines.decoder.queue_depth == 2)
        gated.gate.set()
        await asyncio.gather(first, second)
        assert any(len(set(times)) == 2 for times in gated.batches)

    run(gated, work)


def test_a_guided_step_is_two_rows_of_one_tick(runner: Runner) -> None:
    gated, recorder = Gated(runner, buckets=[2]), Recorder()

    async def work(engines: LocalEngines) -> None:
        sampler = SamplerConfig(steps=2, guidance=3.0, guidance_interval=(0.0, 1e17))
        await engines.decoder.decode(some_tokens(), DecodeOptions(seed=0, sampler=sampler))
        assert [len(times) for times in gated.batches] == [2, 2]

    run(gated, work, observer=recorder)
    assert [rows for _, rows, _ in recorder.batches] == [2, 2]


@pytest.mark.parametrize(
    ("priorities", "expected"),
    [
        (["interactive"] * 4, [0, 1, 2, 3]),
        (["batch", "interactive", "batch", "interactive"], [1, 3, 0, 2]),
    ],
)
def test_equal_work_goes_by_age_and_interactive_work_passes(
    runner: Runner, priorities: list[Priority], expected: list[int]
) -> None:
    gated = Gated(runner, buckets=[2])

    async def work(engines: LocalEngines) -> None:
        gated.gate.clear()
        blocker = asyncio.create_task(engines.decoder.decode(some_tokens(), options(99, 1)))
        await until(gated.entered.is_set)
        gated.forget()
        ended: list[int] = []

        async def one(seed: int, priority: Priority) -> None:
            # Guided throughout, so that one fills the whole tick.
            sampler = SamplerConfig(steps=2, guidance=2.0, guidance_interval=(0.0, 1e17))
            wish = DecodeOptions(seed=seed, sampler=sampler)
            await engines.decoder.decode(some_tokens(), wish, Call(priority=priority))
            ended.append(seed)

        tasks = []
        for seed, priority in enumerate(priorities):
            tasks.append(asyncio.create_task(one(seed, priority)))
            await until(lambda: engines.decoder.queue_depth == len(tasks) + 1)
        gated.gate.set()
        await asyncio.gather(blocker, *tasks)
        assert ended == expected

    run(gated, work)


def test_a_client_that_leaves_frees_its_rows_before_the_next_tick(gated: Gated) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        gated.gate.clear()
        leaving = asyncio.create_task(engines.decoder.decode(some_tokens(), options(0, 100)))
        staying = asyncio.create_task(engines.decoder.decode(some_tokens(), options(1, 3)))
        waiting = asyncio.create_task(engines.decoder.decode(some_tokens(), options(2, 50)))
        await until(gated.entered.is_set)
        await until(lambda: engines.decoder.queue_depth == 3)
        for task in (leaving, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gated.gate.set()
        await staying
        assert len(gated.batches) <= 4

    run(gated, work, observer=recorder)
    assert len(recorder.saved) == 2
    assert 145 <= sum(recorder.saved) <= 150


def test_a_deadline_that_cannot_be_met_is_refused_at_once(gated: Gated) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        begin = time.monotonic()
        with pytest.raises(DeadlineUnreachableError, match="the deadline is in") as caught:
            await engines.decoder.decode(
                some_tokens(), options(9, steps=1000), Call(deadline=time.monotonic() + 0.01)
            )
        assert caught.value.retry_after >= 1
        assert 9 not in gated.begun
        assert engines.decoder.queue_depth == 0
        # One that has passed already, too.
        with pytest.raises(DeadlineUnreachableError):
            await engines.decoder.decode(some_tokens(), options(steps=1), Call(deadline=begin))
        await engines.decoder.decode(some_tokens(), options(), Call(deadline=time.monotonic() + 60))

    run(gated, work, observer=recorder)
    assert recorder.refusals == [("decoder", "deadline")] * 2


def test_work_ahead_counts_towards_the_deadline(gated: Gated) -> None:
    async def work(engines: LocalEngines) -> None:
        assert engines.decoder.backlog_seconds == 0.0
        gated.gate.clear()
        tasks = [
            asyncio.create_task(engines.decoder.decode(some_tokens(), options(seed, 900)))
            for seed in range(64)
        ]
        await until(lambda: engines.decoder.queue_depth == 64)
        backlog = engines.decoder.backlog_seconds
        assert backlog > 0
        # It would be met alone, and is not behind all that.
        call = Call(deadline=time.monotonic() + backlog / 2)
        with pytest.raises(DeadlineUnreachableError):
            await engines.decoder.decode(some_tokens(), options(steps=900), call)
        # A short one goes before them.
        short = asyncio.create_task(engines.decoder.decode(some_tokens(), options(99, 4), call))
        await until(lambda: engines.decoder.queue_depth == 65)
        tasks.append(short)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gated.gate.set()

    run(gated, work)


def test_a_deadline_that_passes_ends_the_decode(gated: Gated) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        gated.gate.clear()
        with pytest.raises(DeadlineExceededError):
            await engines.decoder.decode(
                some_tokens(), options(steps=4), Call(deadline=time.monotonic() + 0.5)
            )
        gated.gate.set()
        await engines.decoder.decode(some_tokens(), options(1))

    run(gated, work, observer=recorder)
    assert recorder.saved == [3]


def test_fewer_steps_are_made_only_with_leave(runner: Runner) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        wish = options(5, 1000)
        needed = engines.decoder._completion(Call(), Load(steps=1000, rows=1000))
        call = Call(deadline=time.monotonic() + needed / 2)
        with pytest.raises(DeadlineUnreachableError):
            await engines.decoder.decode(some_tokens(), wish, call)
        degraded = engines.decoder._admit(replace(wish, degrade=True), call)
        assert 250 <= degraded.sampler.steps < 1000
        assert replace(degraded.sampler, steps=1000) == wish.sampler
        # Not below a quarter.
        call = Call(deadline=time.monotonic() + needed / 100)
        with pytest.raises(DeadlineUnreachableError):
            await engines.decoder.decode(some_tokens(), replace(wish, degrade=True), call)

    run(runner, work, observer=recorder)
    assert len(recorder.degradations) == 1
    assert 0 < recorder.degradations[0] <= 750


def test_a_full_engine_refuses(gated: Gated) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        gated.gate.clear()
        tasks = [
            asyncio.create_task(engines.decoder.decode(some_tokens(), options(s))) for s in range(3)
        ]
        await until(lambda: engines.decoder.queue_depth == 3)
        with pytest.raises(QueueFullError, match="3 decodes are inside") as caught:
            await engines.decoder.decode(some_tokens(), options())
        assert caught.value.retry_after >= 1
        gated.gate.set()
        await asyncio.gather(*tasks)

    run(gated, work, observer=recorder, max_queued_requests=3)
    assert recorder.refusals == [("decoder", "queue-full")]


def test_a_failure_is_its_batchs_own(gated: Gated) -> None:
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        wrong = Tokens(ids=np.zeros((5, 3), np.int32), group_bits=4)
        with pytest.raises(TokenError):
            await engines.decoder.decode(wrong, options())
        gated.error = RuntimeError("a kernel of secret internals failed")
        results = await asyncio.gather(
            *(engines.decoder.decode(some_tokens(), options(seed)) for seed in range(2)),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [ComputeError] * 2
        assert "secret" not in str(results[0])
        gated.error = None
        assert (await engines.decoder.decode(some_tokens(), options())).pixels.shape == (32, 32, 3)
        assert engines.alive
        assert engines.decoder.queue_depth == 0

    run(gated, work, observer=recorder)
    assert recorder.failures == 2


def test_progress_and_previews_are_seen(runner: Runner) -> None:
    async def work(engines: LocalEngines) -> None:
        seen: list[DecodeProgress] = []
        watch = Watch(on_progress=seen.append, previews={2, 4})
        decoded = await engines.decoder.decode(some_tokens(), options(0, 4), watch=watch)
        await asyncio.sleep(0)
        assert [(p.step, p.steps, p.preview is not None) for p in seen] == [
            (1, 4, False),
            (2, 4, True),
            (3, 4, False),
            (4, 4, True),
        ]
        # At t -> 0 the estimate is the picture.
        assert seen[3].preview is not None
        assert is_same_picture(seen[3].preview, decoded.pixels)

    run(runner, work)


@pytest.mark.parametrize(
    ("batching", "expected"), [("request", [1, 1, 1, 3, 3]), ("single", [1] * 9)]
)
def test_other_disciplines_form_batches_only_when_the_last_has_ended(
    runner: Runner, batching: Batching, expected: list[int]
) -> None:
    # Batches of four at any rate, so that nothing but the discipline splits them.
    gated = Gated(runner, buckets=[4])
    recorder = Recorder()

    async def work(engines: LocalEngines) -> None:
        gated.gate.clear()
        first = asyncio.create_task(engines.decoder.decode(some_tokens(), options(0, 3)))
        await until(gated.entered.is_set)
        others = [
            asyncio.create_task(engines.decoder.decode(some_tokens(), options(seed, 2)))
            for seed in (1, 2, 3)
        ]
        await until(lambda: engines.decoder.queue_depth == 4)
        gated.gate.set()
        await asyncio.gather(first, *others)

    run(gated, work, batching=batching, observer=recorder)
    assert [rows for _, rows, _ in recorder.batches] == expected


def test_closing_finishes_what_was_submitted(gated: Gated) -> None:
    async def main() -> None:
        engines = LocalEngines(gated, gated)
        engines.start()
        tasks = [
            asyncio.create_task(engines.decoder.decode(some_tokens(), options(s))) for s in range(4)
        ]
        await asyncio.sleep(0)
        await engines.close()
        assert len(await asyncio.gather(*tasks)) == 4
        with pytest.raises(EngineStoppedError):
            await engines.decoder.decode(some_tokens(), options())

    asyncio.run(main())


def test_closing_does_not_wait_for_ever(gated: Gated) -> None:
    async def main() -> None:
        engines = LocalEngines(gated, gated)
        engines.start()
        await until(lambda: engines.ready)
        gated.gate.clear()
        task = asyncio.create_task(engines.decoder.decode(some_tokens(), options(0, 1000)))
        await until(lambda: engines.decoder.queue_depth == 1)
        await engines.close(0.1)
        with pytest.raises(EngineStoppedError):
            await task
        gated.gate.set()

    asyncio.run(main())


def test_a_stuck_device_is_seen(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(engines: LocalEngines) -> None:
        monkeypatch.setattr(engines.device, "_stuck_seconds", 0.0)
        monkeypatch.setattr(engines.device, "_slowest", 0.005)
        assert engines.alive
        gated.gate.clear()
        task = asyncio.create_task(engines.decoder.decode(some_tokens(), options()))
        await until(lambda: not engines.alive)
        assert engines.device.busy_seconds > 0.05
        gated.gate.set()
        await task
        assert engines.alive

    run(gated, work)
