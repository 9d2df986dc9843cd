"""One decode for several requests: as urgent and as long as the most demanding of them needs."""

import asyncio
from collections.abc import Mapping

import httpx

from flowmo.model.container import MEDIA_TYPE
from flowmo.service.engine.runner import Runner
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
            while served.engines.decoder._works[0].options.seed != 9:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            gated.gate.set()
            answers = [await task for task in tasks]
            assert {answer.status_code for answer in answers} == {200}
            assert answers[-1].headers["Flowmo-Cache"] == "shared"
            assert answers[-1].content == answers[-2].content
            # It is made next, and only once.
            assert gated.begun[1] == 9
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
