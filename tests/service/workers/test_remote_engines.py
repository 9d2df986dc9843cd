"""What a gateway's engines promise, over a real local socket in front of an engine of the test."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from flowmo.imaging.reading import Pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.layout import PictureLayout
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import (
    Call,
    Decoded,
    DecodeOptions,
    DecodeProgress,
    Encoded,
    Timings,
    Watch,
)
from flowmo.service.engine.generate_calls import GenerateOptions, GenerateProgress, GenerateWatch
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.runner import Runner
from flowmo.service.engine.shared_calls import SharedCall, following
from flowmo.service.engine.torch_generator import TorchGeneratorRunner
from flowmo.service.errors import (
    DeadlineExceededError,
    NotReadyError,
    OtherWeightsError,
    QueueFullError,
)
from flowmo.service.models import Models
from flowmo.service.workers.engine_link import EngineLink
from flowmo.service.workers.engine_server import EngineServer
from flowmo.service.workers.frames import Streams, listen
from flowmo.service.workers.remote_engines import ProcessEngines
from tests.service.fixtures import CONFIG
from tests.service.runners import until

INFO = ModelInfo(fingerprint="f" * 32, config=CONFIG, device="cpu", dtype="float32")
TOKENS = Tokens(ids=np.arange(48, dtype=np.int32).reshape(16, 3) % 16, group_bits=4)
PIXELS = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
OPTIONS = DecodeOptions(seed=2**63 - 1, sampler=SamplerConfig(steps=3, rho=0.1, guidance=1 / 3))


class Scripted:
    """Both engines of a model, doing what a test says."""

    info, ready, complaint, waiting = INFO, True, None, 0
    backlog_seconds, busy_seconds = 7.5, 0.0
    slots: ClassVar = {"encoder": 4, "decoder": 8}

    def __init__(self) -> None:
        self.encoder = self.decoder = self
        self.generator = None
        self.calls: list[Call] = []
        self.options: list[DecodeOptions] = []
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.error: Exception | None = None

    async def _pass(self, call: Call) -> None:
        with following(call, self.calls.append):
            self.calls.append(call)
            self.begun.set()
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.error is not None:
            raise self.error

    async def encode(self, pixels: Pixels, call: Call) -> Encoded:
        assert np.array_equal(pixels, PIXELS)
        await self._pass(call)
        return Encoded(tokens=TOKENS, weights="w", timings=Timings(queue=0.1, run=0.2))

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch | None = None
    ) -> Decoded:
        assert np.array_equal(tokens.ids, TOKENS.ids)
        self.options.append(options)
        for step in range(1, 4):
            if watch is not None:
                preview = PIXELS if step in watch.previews else None
                watch.on_progress(DecodeProgress(step=step, steps=3, preview=preview))
        await self._pass(call)
        timings = Timings(queue=0.1, run=0.2, steps=(0.3, 1 / 3))
        return Decoded(pixels=PIXELS, sampler=options.sampler, timings=timings)


def serving(engine: Any) -> EngineServer:
    return EngineServer(Models({"m": lambda: engine}), lambda: 30.0)


@asynccontextmanager
async def connected(path: Path, engine: Any) -> AsyncIterator[tuple[ProcessEngines, EngineLink]]:
    listening = await listen(path, serving(engine).serve)
    link = EngineLink(path)
    await link.start()
    try:
        yield ProcessEngines(link, 0), link
    finally:
        await link.close()
        listening.close()


def run(tmp_path: Path, test: Callable[[Scripted, ProcessEngines, EngineLink], Any]) -> None:
    async def main() -> None:
        engine = Scripted()
        async with (
            asyncio.timeout(30),
            connected(tmp_path / "engine.sock", engine) as (engines, link),
        ):
            await test(engine, engines, link)

    asyncio.run(main())


def test_what_goes_in_and_comes_out_is_the_same_as_in_one_process(tmp_path: Path) -> None:
    async def test(engine: Scripted, engines: ProcessEngines, link: EngineLink) -> None:
        engine.gate.set()
        call = Call(priority="batch", tenant="team-a", weight=2.5)
        encoded = await engines.encoder.encode(PIXELS, call)
        assert np.array_equal(encoded.tokens.ids, TOKENS.ids)
        assert (encoded.weights, encoded.timings) == ("w", Timings(queue=0.1, run=0.2))
        layout = PictureLayout(width=50, height=40, tile_size=32, overlap=8)
        options = DecodeOptions(
            seed=OPTIONS.seed, sampler=OPTIONS.sampler, degrade=True, weights="w",
            layout=layout, region=(1, 2, 3, 4),
        )  # fmt: skip
        seen: list[DecodeProgress] = []
        watch = Watch(on_progress=seen.append, previews=frozenset({2}))
        decoded = await engines.decoder.decode(TOKENS, options, call, watch)
        assert np.array_equal(decoded.pixels, PIXELS)
        assert decoded.sampler == OPTIONS.sampler
        assert decoded.timings.steps == (0.3, 1 / 3)
        assert [(one.step, one.preview is not None) for one in seen] == [
            (1, False), (2, True), (3, False),
        ]  # fmt: skip
        assert engine.options == [options]
        assert engine.calls == [call, call]
        assert (engines.info, engines.slots) == (INFO, Scripted.slots)
        assert engines.ready
        assert 6.0 < engines.backlog_seconds <= 7.5

    run(tmp_path, test)


@pytest.mark.parametrize(
    "error",
    [
        QueueFullError("full", retry_after=9),
        OtherWeightsError("others"),
        ConfigError("a region outside"),
    ],
)
def test_an_engines_refusal_is_the_gateways(tmp_path: Path, error: Exception) -> None:
    async def test(engine: Scripted, engines: ProcessEngines, link: EngineLink) -> None:
        engine.error = error
        engine.gate.set()
        with pytest.raises(type(error), match=str(error)) as raised:
            await engines.decoder.decode(TOKENS, OPTIONS, Call())
        assert vars(raised.value) == vars(error)

    run(tmp_path, test)


def test_a_bug_in_the_engine_tells_nothing_but_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(engine: Scripted, engines: ProcessEngines, link: EngineLink) -> None:
        engine.error = ZeroDivisionError("secret internals")
        engine.gate.set()
        with pytest.raises(RuntimeError) as raised:
            await engines.encoder.encode(PIXELS, Call())
        assert "secret" not in str(raised.value)

    run(tmp_path, test)
    assert "secret internals" in caplog.text


def test_whoever_leaves_ends_the_work_in_the_engine(tmp_path: Path) -> None:
    async def test(engine: Scripted, engines: ProcessEngines, link: EngineLink) -> None:
        work = asyncio.create_task(engines.encoder.encode(PIXELS, Call()))
        await engine.begun.wait()
        assert engines.waiting == 1
        work.cancel()
        await engine.cancelled.wait()
        assert engines.waiting == 0
        # The next one is not mixed up with what the first had asked for.
        engine.gate.set()
        assert (await engines.encoder.encode(PIXELS, Call())).weights == "w"

    run(tmp_path, test)


def test_a_deadline_holds_at_the_gateway(tmp_path: Path) -> None:
    async def test(engine: Scripted, engines: ProcessEngines, link: EngineLink) -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(DeadlineExceededError):
            await engines.decoder.decode(TOKENS, OPTIONS, Call(deadline=loop.time() + 0.05))
        await engine.cancelled.wait()

    run(tmp_path, test)


def test_work_rises_with_those_who_come_to_wait_for_it(tmp_path: Path) -> None:
    async def test(engine: Scripted, engines: ProcessEngines, link: EngineLink) -> None:
        shared = SharedCall(Call(priority="batch"))
        work = asyncio.create_task(engines.decoder.decode(TOKENS, OPTIONS, shared.call))
        await engine.begun.wait()
        shared.join(Call(priority="interactive"))
        await until(lambda: len(engine.calls) == 2)
        assert [call.priority for call in engine.calls] == ["batch", "interactive"]
        engine.gate.set()
        await work

    run(tmp_path, test)


def test_an_engine_that_dies_is_a_503_that_says_when_and_the_next_one_is_found(
    tmp_path: Path,
) -> None:
    path = tmp_path / "engine.sock"

    async def main() -> None:
        first = Scripted()
        streams = []

        async def serve(one: Streams) -> None:
            streams.append(one)
            await serving(first).serve(one)

        listening = await listen(path, serve)
        link = EngineLink(path)
        await link.start()
        engines = ProcessEngines(link, 0)
        work = asyncio.create_task(engines.encoder.encode(PIXELS, Call()))
        await first.begun.wait()
        listening.close()
        for one in streams:
            one.abort()
        with pytest.raises(NotReadyError, match="died") as raised:
            await work
        assert 1 <= raised.value.retry_after <= 30
        await until(lambda: not engines.ready)  # it is seen on another connection
        assert engines.complaint is None  # another one is coming
        with pytest.raises(NotReadyError, match="started again"):
            await engines.encoder.encode(PIXELS, Call())
        second = Scripted()
        second.gate.set()
        async with connected(path, second):
            await until(lambda: engines.ready)
            assert (await engines.encoder.encode(PIXELS, Call())).weights == "w"
        await link.close()

    async def within() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(within())


def test_a_generation_is_the_same_as_in_one_process(
    tmp_path: Path, runner: Runner, prior_checkpoint: Path
) -> None:
    prior = Prior.from_pretrained(prior_checkpoint)
    config = prior.config

    async def main() -> None:
        engine = LocalEngines(
            runner, runner, generator=TorchGeneratorRunner(prior, buckets=(1, 2, 4))
        )
        engine.start()
        await until(lambda: engine.ready)
        async with (
            asyncio.timeout(60),
            connected(tmp_path / "engine.sock", engine) as (engines, _),
        ):
            assert engines.info == engine.info
            assert engines.generator is not None
            assert engine.generator is not None
            edit = GenerateOptions(
                class_number=1,
                seed=2**61,
                sampler=replace(config.sampler, temperature=1 / 3),
                known=TOKENS,
                kept=np.arange(48) % 3 == 0,
            )
            seen: list[GenerateProgress] = []
            watch = GenerateWatch(on_progress=seen.append, previews=frozenset({2}))
            made = await engines.generator.generate(edit, Call(), watch)
            wanted = await engine.generator.generate(edit)
            assert (made.tokens, made.sampler, made.prior) == (
                wanted.tokens,
                wanted.sampler,
                prior.fingerprint(),
            )
            assert [(one.step, one.tokens is not None) for one in seen] == [
                (1, False), (2, True), (3, False), (4, False),
            ]  # fmt: skip
            with pytest.raises(ConfigError, match="classes are 0 ... 2"):
                await engines.generator.generate(replace(edit, class_number=9), Call())
        await engine.close()

    asyncio.run(main())


def test_a_gateway_does_not_load_torch() -> None:
    code = "import sys, flowmo.service.workers.gateway_process; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
