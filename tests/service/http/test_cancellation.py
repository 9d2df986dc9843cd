"""Requests that their senders cancel by name."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from flowmo.client import Client, ServerRefusedError
from flowmo.model.container import MEDIA_TYPE
from flowmo.service.engine.runner import Runner
from flowmo.service.http.keys import digest_of
from flowmo.service.settings import Settings
from tests.service.pictures import as_file, gradient
from tests.service.runners import Gated, client_of, until

CONTAINER = {"Content-Type": MEDIA_TYPE}
STEPS = 50


def served(
    runner: Runner,
    work: Callable[[httpx.AsyncClient, Gated], Awaitable[None]],
    **settings: object,
) -> None:
    """``work`` with a server whose device waits in front of a gate."""

    async def main() -> None:
        gated = Gated(runner)
        async with client_of(gated, Settings(**settings)) as client:  # type: ignore[arg-type]
            gated.gate.clear()
            try:
                await work(client, gated)
            finally:
                gated.gate.set()

    asyncio.run(main())


def decode(
    client: httpx.AsyncClient, container: bytes, name: str, **headers: str
) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(
        client.post(
            "/v1/detokenize",
            content=container,
            params={"steps": STEPS},
            headers=CONTAINER | {"X-Request-ID": name} | headers,
        )
    )


async def saved(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    (line,) = (
        one
        for one in text.splitlines()
        if 'flowmo_steps_saved_total{model="nano",rea' in one and 'reason="cancelled"' in one
    )
    return float(line.split()[-1])


def test_a_cancelled_decode_ends_and_its_steps_are_saved(runner: Runner, container: bytes) -> None:
    async def work(client: httpx.AsyncClient, gated: Gated) -> None:
        first = decode(client, container, "mine")
        await until(gated.entered.is_set)
        answer = await client.post("/v1/requests/mine/cancel")
        assert (answer.status_code, answer.json()) == (200, {"id": "mine", "cancelled": 1})
        cancelled = await first
        assert (cancelled.status_code, cancelled.json()["code"]) == (499, "cancelled")
        # Asked again, it says the same; a stranger's word does not.
        again = await client.post("/v1/requests/mine/cancel")
        assert (again.status_code, again.json()) == (200, {"id": "mine", "cancelled": 0})
        other = await client.post("/v1/requests/yours/cancel")
        assert (other.status_code, other.json()["code"]) == (404, "unknown-request")
        gated.gate.set()
        async with asyncio.timeout(30):
            while await saved(client) < STEPS - 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(gated.batches) <= 1

    served(runner, work)


def test_what_has_been_answered_is_unknown(runner: Runner, container: bytes) -> None:
    async def work(client: httpx.AsyncClient, gated: Gated) -> None:
        gated.gate.set()
        assert (await decode(client, container, "done")).status_code == 200
        assert (await client.post("/v1/requests/done/cancel")).status_code == 404

    served(runner, work)


def test_only_the_key_that_sent_it_cancels_it(runner: Runner, container: bytes) -> None:
    async def work(client: httpx.AsyncClient, gated: Gated) -> None:
        one = {"Authorization": "Bearer first"}
        task = decode(client, container, "same", **one)
        await until(gated.entered.is_set)
        assert (await client.post("/v1/requests/same/cancel")).status_code == 401
        other = await client.post(
            "/v1/requests/same/cancel", headers={"Authorization": "Bearer second"}
        )
        assert other.status_code == 404
        assert not task.done()
        assert (await client.post("/v1/requests/same/cancel", headers=one)).status_code == 200
        assert (await task).status_code == 499

    keys = f"a:{digest_of('first')},b:{digest_of('second')}"
    served(runner, work, api_keys=keys)


def test_a_key_with_no_place_left_may_cancel(
    runner: Runner, container: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[a]\nsha256 = "{digest_of("first")}"\nconcurrency = 1\n')

    async def work(client: httpx.AsyncClient, gated: Gated) -> None:
        one = {"Authorization": "Bearer first"}
        task = decode(client, container, "same", **one)
        await until(gated.entered.is_set)
        assert (await decode(client, container, "more", **one)).status_code == 429
        assert (await client.post("/v1/requests/same/cancel", headers=one)).status_code == 200
        assert (await task).status_code == 499

    served(runner, work, api_keys_file=path)


def test_others_that_wait_for_the_same_picture_get_it(runner: Runner, container: bytes) -> None:
    async def work(client: httpx.AsyncClient, gated: Gated) -> None:
        first = decode(client, container, "first")
        await until(gated.entered.is_set)
        second = decode(client, container, "second")
        await asyncio.sleep(0.05)
        await client.post("/v1/requests/first/cancel")
        assert (await first).status_code == 499
        gated.gate.set()
        answer = await second
        assert answer.status_code == 200
        assert answer.headers["Flowmo-Cache"] in {"shared", "miss"}

    served(runner, work)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_batch_is_cancelled_as_a_whole(runner: Runner, accept: str) -> None:
    async def work(client: httpx.AsyncClient, gated: Gated) -> None:
        png = as_file(gradient())
        task = asyncio.create_task(
            client.post(
                "/v1/reconstruct/batch",
                files=[("item", ("a", png))] * 3,
                headers={"X-Request-ID": "batch", "Accept": accept},
            )
        )
        await until(gated.entered.is_set)
        answer = await client.post("/v1/requests/batch/cancel")
        assert answer.json()["cancelled"] == 1
        gated.gate.set()
        cancelled = await task
        if accept == "application/json":
            assert (cancelled.status_code, cancelled.json()["code"]) == (499, "cancelled")
        else:
            *lines, counts = (json.loads(line) for line in cancelled.text.splitlines())
            assert counts == {"succeeded": 0, "failed": 3}
            assert {line["problem"]["code"] for line in lines} == {"cancelled"}

    served(runner, work)


def test_events_end_with_the_problem(runner: Runner, container: bytes) -> None:
    async def work(client: httpx.AsyncClient, gated: Gated) -> None:
        task = asyncio.create_task(
            client.post(
                "/v1/detokenize",
                content=container,
                params={"steps": STEPS, "stream": "true"},
                headers=CONTAINER | {"X-Request-ID": "events"},
            )
        )
        await until(gated.entered.is_set)
        await client.post("/v1/requests/events/cancel")
        # Before its first step it is an ordinary answer, for which the device is not waited for.
        answer = await task
        assert (answer.status_code, answer.json()["code"]) == (499, "cancelled")

    served(runner, work)


def test_ids_that_no_request_can_have(http: httpx.Client) -> None:
    answer = http.post("/v1/requests/a%20b/cancel")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-fields")


def test_the_client_cancels_by_the_name_it_gave(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        with pytest.raises(ServerRefusedError) as error:
            client.cancel("nobody-sent-it")
        assert (error.value.status, error.value.code) == (404, "unknown-request")
        with pytest.raises(ValueError, match="request_id"):
            client.cancel("a/b")
