"""The generator's engine: what a request gets is its own, and what it costs is known beforehand."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowmo.model.errors import ConfigError
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.prior.editing import row_of_ids, tokens_of_ids
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call, DecodeOptions
from flowmo.service.engine.generate_calls import GenerateOptions, GenerateProgress, GenerateWatch
from flowmo.service.engine.local import EngineSettings, LocalEngines
from flowmo.service.engine.runner import Runner
from flowmo.service.engine.schedule import BucketTimes, Load
from flowmo.service.engine.step_turns import StepTurns
from flowmo.service.errors import (
    ComputeError,
    DeadlineUnreachableError,
    QueueFullError,
)
from tests.service.runners import GatedPrior, Recorder, some_tokens, until


@pytest.fixture(scope="module")
def prior(prior_checkpoint: Path) -> Prior:
    return Prior.from_pretrained(prior_checkpoint)


@pytest.fixture(scope="module")
def config(prior: Prior) -> PriorConfig:
    return prior.config


def run(
    runner: Runner,
    prior: Prior,
    work: Callable[[LocalEngines, GatedPrior], Awaitable[None]],
    *,
    observer: Recorder | None = None,
    max_queued_requests: int = 256,
) -> None:
    async def main() -> None:
        gated = GatedPrior(prior)
        settings = EngineSettings(max_queued_requests=max_queued_requests)
        engines = LocalEngines(runner, runner, settings, observer, gated)
        engines.start()
        await until(lambda: engines.ready)
        gated.batches.clear()
        gated.entered.clear()
        try:
            await work(engines, gated)
        finally:
            gated.gate.set()
            await engines.close()

    asyncio.run(main())


def options_of(
    config: PriorConfig, class_: str | None = "cat", seed: int = 0, **changes: object
) -> GenerateOptions:
    sampler = replace(config.sampler, **changes)  # type: ignore[arg-type]
    return GenerateOptions(class_number=config.class_number(class_), seed=seed, sampler=sampler)


def alone(prior: Prior, options: GenerateOptions) -> Tokens:
    known = (
        None if options.known is None else torch.from_numpy(row_of_ids(options.known, prior.config))
    )
    kept = None if options.kept is None else torch.from_numpy(options.kept)
    ids = prior.generate(
        [options.class_number],
        seeds=[options.seed],
        sampler=options.sampler,
        known=known,
        keep=kept,
    )
    return tokens_of_ids(ids[0].numpy(), prior.config)


def test_rows_of_any_step_share_a_batch_and_change_nothing(
    runner: Runner, prior: Prior, config: PriorConfig
) -> None:
    edit = replace(
        options_of(config, "dog", 4, steps=3),
        known=some_tokens(5),
        kept=np.arange(config.length) < 20,
    )
    wishes = [
        options_of(config, "cat", 1),
        options_of(config, None, 2, steps=6),
        options_of(config, "dog", 3, steps=2, guidance=1.0),
        options_of(config, "dog", 3, steps=5, guidance=0.0, temperature=0.5),
        edit,
    ]

    async def work(engines: LocalEngines, gated: GatedPrior) -> None:
        assert engines.generator is not None
        came: list[GenerateProgress] = []
        watch = GenerateWatch(on_progress=came.append, previews={2, 4})
        gated.gate.clear()
        first = asyncio.create_task(engines.generator.generate(wishes[0], Call(), watch))
        await asyncio.to_thread(gated.entered.wait, 60)
        others = [engines.generator.generate(one, Call()) for one in wishes[1:]]
        rest = asyncio.gather(*others)
        await until(lambda: engines.generator is not None and engines.generator.queue_depth == 5)
        gated.gate.set()
        made = [await first, *await rest]
        assert [one.tokens for one in made] == [alone(prior, wish) for wish in wishes]
        assert {one.prior for one in made} == {prior.fingerprint()}
        assert (made[4].tokens.ids.reshape(-1)[:20] == 5).all()
        # The first step of the first is 2 rows; then 2 + 1 + 1 + 1 + 2 share a batch of 8.
        assert [len(batch) for batch in gated.batches][:2] == [2, 8]
        assert [one.step for one in came] == [1, 2, 3, 4]
        previews = [one.tokens for one in came]
        assert previews[0] is None
        assert previews[1] not in (None, made[0].tokens)
        assert previews[3] == made[0].tokens
        assert len(made[0].timings.steps) == 4

    run(runner, prior, work)


def test_what_is_refused_given_up_and_degraded(
    runner: Runner, prior: Prior, config: PriorConfig
) -> None:
    seen = Recorder()

    async def work(engines: LocalEngines, gated: GatedPrior) -> None:
        generator = engines.generator
        assert generator is not None
        with pytest.raises(ConfigError, match=r"classes are 0 ... 2 \(none\), got 3"):
            await generator.generate(replace(options_of(config), class_number=3))
        gated.gate.clear()
        task = asyncio.create_task(generator.generate(options_of(config, steps=40)))
        await asyncio.to_thread(gated.entered.wait, 60)
        with pytest.raises(QueueFullError, match="1 generations are inside"):
            await generator.generate(options_of(config))
        task.cancel()  # a client that leaves
        await asyncio.wait({task})
        gated.gate.set()
        await until(lambda: generator.queue_depth == 0)
        assert len(gated.batches) < 40
        assert seen.saved == [39]

        generator._ticks.times = slow()
        soon = Call(deadline=time.monotonic() + 1000.0)
        with pytest.raises(DeadlineUnreachableError, match="the generation would be done in 4000"):
            await generator.generate(options_of(config, steps=40), soon)
        wish = replace(options_of(config, steps=16), degrade=True)
        made = await generator.generate(wish, soon)
        assert made.sampler.steps == 7  # of 100 s each, in three quarters of 1000 s
        assert made.tokens == alone(prior, replace(wish, sampler=made.sampler))
        assert seen.degradations == [9]
        assert [one for one in seen.refusals if one[0] == "generator"] == [
            ("generator", "queue-full"),
            ("generator", "deadline"),
        ]

    run(runner, prior, work, observer=seen, max_queued_requests=1)


def test_a_batch_that_fails_or_is_too_large_is_its_own_affair(
    runner: Runner, prior: Prior, config: PriorConfig
) -> None:
    async def work(engines: LocalEngines, gated: GatedPrior) -> None:
        generator = engines.generator
        assert generator is not None
        gated.error = RuntimeError("a kernel failed")
        with pytest.raises(ComputeError, match="a step of this generation failed"):
            await generator.generate(options_of(config))
        gated.error = None
        gated.fits = 2  # made again in smaller batches, and with the same random numbers
        wishes = [options_of(config, "dog", seed) for seed in range(4)]
        made = await asyncio.gather(*(generator.generate(one) for one in wishes))
        assert [one.tokens for one in made] == [alone(prior, wish) for wish in wishes]
        assert generator.slots == 2

    run(runner, prior, work)


def test_decodes_go_on_beside_generations_and_each_counts_the_other(
    runner: Runner, prior: Prior, config: PriorConfig
) -> None:
    async def work(engines: LocalEngines, gated: GatedPrior) -> None:
        generator = engines.generator
        assert generator is not None
        gated.gate.clear()
        generating = asyncio.create_task(generator.generate(options_of(config, steps=40)))
        await asyncio.to_thread(gated.entered.wait, 60)
        decoding = asyncio.create_task(
            engines.decoder.decode(
                some_tokens(), DecodeOptions(seed=0, sampler=engines.info.sampler)
            )
        )
        await until(lambda: engines.decoder.queue_depth == 1)
        assert engines.waiting == 2
        assert engines.slots["generator"] == 8
        measured, generator._ticks.times = generator._ticks.times, slow()
        with engines.device.changed:
            # 39 steps of two rows are left of the generation, 12.5 s a row at the best rate; a
            # decode that takes less itself waits for as much of it.
            load = Load(steps=4, rows=4)
            short = engines.decoder._completion(Call(), load)
            engines.decoder.beside = ()
            assert short == 2 * engines.decoder._completion(Call(), load)
            assert generator.work_seconds == pytest.approx(2 * 39 * 12.5, abs=25)
        generator._ticks.times = measured
        gated.gate.set()
        await asyncio.gather(generating, decoding)

    run(runner, prior, work)


def slow() -> BucketTimes:
    """Of a device that takes 100 s for a batch of any size."""
    return BucketTimes(dict.fromkeys((1, 2, 4, 8), 100.0))


class Timed:
    """An engine whose ticks take a while by a clock that nothing else moves."""

    def __init__(self, clock: list[float], seconds: float, ticks: int) -> None:
        self.clock, self.seconds, self.left = clock, seconds, ticks
        self.made: list[float] = []

    def warm_up(self) -> float:
        return self.seconds

    def due(self) -> float | None:
        return 0.0 if self.left else None

    def run(self) -> None:
        self.clock[0] += self.seconds
        self.made.append(self.clock[0])
        self.left -= 1

    def abandon(self) -> None:
        self.left = 0


def test_engines_share_the_time_of_a_device_and_not_its_ticks() -> None:
    clock = [0.0]
    short, long = Timed(clock, 1.0, 1000), Timed(clock, 8.0, 0)
    turns = StepTurns([short, long], lambda: clock[0])
    assert turns.warm_up() == 8.0
    for _ in range(100):
        assert turns.due() is not None
        turns.run()
    long.left = 10  # what had nothing to do has no credit
    while long.left:
        assert turns.due() is not None
        turns.run()
    assert 100.0 + 8 * 18 <= clock[0] <= 100.0 + 8 * 20
    assert max(b - a for a, b in zip(long.made, long.made[1:], strict=False)) == 16.0
    short.left = 0
    assert turns.due() is None
