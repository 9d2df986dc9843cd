"""One decode for several requests: as urgent and as long as the most demanding of them needs."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import httpx
import numpy as np

from flowmo.model.container import MEDIA_TYPE
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call, Decoded, DecodeOptions, Timings, Watch
from flowmo.service.engine.local import LocalEngines
from flowmo.service.engine.runner import Runner
from flowmo.service.errors import DeadlineUnreachableError
from flowmo.service.http.app import create_app
from flowmo.service.models import Models
from flowmo.service.settings import Settings
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics
from tests.service.runners import Gated, client_of, until

PACKED = {"Content-Type": MEDIA_TYPE}
BATCH = {"Flowmo-Priority": "batch"}


def test_an_interactive_request_raises_the_batch_work_that_it_joins(
    runner: Runner, container: bytes
) -> None:
    gated = Gated(runner, buckets=[2])

    async def main() -> None:
        async with client_of(gated) as client:

            def ask(seed: int, headers: Mapping[str, str]) -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(
                    client.post(
                        "/v1/detokenize",
                        content=container,
                        headers=PACKED | dict(headers),
                        params={"seed": seed},
                    )
                )

            async def inside(count: int) -> None:
                engines = served.engines
                await until(lambda: engines.waiting == count)

            (served,) = client._transport.app.state.service.models  # type: ignore[attr-defined]
            gated.gate.clear()
            tasks = [ask(0, BATCH)]
            await until(gated.entered.is_set)
            for count, seed in enumerate(range(1, 10), start=2):
                tasks.append(ask(seed, BATCH))
                await inside(count)
            tasks.append(ask(9, {}))  # the last of the batch work, asked for by somebody who waits
            while next(served.engines.decoder._works.order()).options.seed != 9:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            # As the engine ends them: pictures are then written as files, some sooner than others.
            ended: list[int] = []
            for work in served.engines.decoder._works:
                seed = work.options.seed
                work.future.add_done_callback(lambda _, seed=seed: ended.append(seed))
            gated.gate.set()
            answers = [await task for task in tasks]
            assert {answer.status_code for answer in answers} == {200}
            assert answers[-1].headers["Flowmo-Cache"] == "shared"
            assert answers[-1].content == answers[-2].content
            # It is made next, and only once.
            assert set(ended[:2]) == {0, 9}
            assert sorted(gated.begun) == list(range(10))

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_longest_deadline_decides_how_long_the_work_goes_on(
    runner: Runner, container: bytes
) -> None:
    gated = Gated(runner)

    async def main() -> None:
        async with client_of(gated) as client:

            async def ask(seconds: float) -> httpx.Response:
                headers = PACKED | {"X-Request-Timeout-Seconds": str(seconds)}
                return await client.post("/v1/detokenize", content=container, headers=headers)

            gated.gate.clear()
            hasty = asyncio.create_task(ask(1.0))
            await until(gated.entered.is_set)
            patient = asyncio.create_task(ask(100.0))
            assert (await hasty).status_code == 504
            gated.gate.set()
            answer = await patient
            assert (answer.status_code, answer.headers["Flowmo-Cache"]) == (200, "shared")
            assert gated.begun == [0]

    asyncio.run(asyncio.wait_for(main(), 60))


class Degrading:
    """A decoder that has no time for all steps unless it is given a minute."""

    backlog_seconds = 0.0
    queue_depth = 0

    def __init__(self, size: int) -> None:
        self.size = size
        self.decoded: list[int] = []
        self.gate = asyncio.Event()

    async def decode(
        self, tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch | None = None
    ) -> Decoded:
        sampler = options.sampler
        if call.remaining < 60:
            if not options.degrade:
                raise DeadlineUnreachableError("it would be done too late")
            sampler = replace(sampler, steps=sampler.steps // 2)
        self.decoded.append(sampler.steps)
        await self.gate.wait()
        pixels = np.full((self.size, self.size, 3), sampler.steps, np.uint8)
        return Decoded(pixels=pixels, sampler=sampler, timings=Timings(queue=0.0, run=0.0))


def test_fewer_steps_are_for_the_one_that_has_no_time_and_are_not_kept(
    runner: Runner, container: bytes
) -> None:
    async def main() -> None:
        decoder = Degrading(runner.info.image_size)

        def build() -> LocalEngines:
            engines = LocalEngines(runner, runner)
            engines.decoder = decoder  # type: ignore[assignment]
            return engines

        app = create_app(
            Models({"nano": build}),
            Metrics(PrometheusInstruments()),
            # The client is no loopback address, and what has no keys answers those alone.
            settings=Settings(allow_anonymous=True),
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            def ask(seconds: float, degrade: str) -> asyncio.Task[httpx.Response]:
                headers = PACKED | {"X-Request-Timeout-Seconds": str(seconds)}
                return asyncio.create_task(
                    client.post(
                        "/v1/detokenize",
                        content=container,
                        headers=headers,
                        params={"degrade": degrade, "steps": 200},
                    )
                )

            hasty = ask(4, "allow")
            await until(lambda: decoder.decoded == [100])
            patient = ask(300, "allow")
            await until(lambda: decoder.decoded == [100, 200])
            strict = ask(300, "never")
            pressed = ask(5, "allow")
            await until(lambda: decoder.decoded == [100, 200, 100])
            decoder.gate.set()
            steps = [
                (await task).headers["Flowmo-Steps"] for task in (hasty, patient, strict, pressed)
            ]
            assert steps == ["100", "200", "200", "100"]
            assert (await hasty).headers["Flowmo-Degraded-From"] == "200"
            # What is whole is everybody's, whatever they allow and however little time they have.
            for kept in (ask(4, "allow"), ask(300, "never"), ask(4, "never")):
                answer = await kept
                assert answer.headers["Flowmo-Cache"] == "hit"
                assert answer.headers["Flowmo-Steps"] == "200"
            assert decoder.decoded == [100, 200, 100]

    asyncio.run(asyncio.wait_for(main(), 60))
