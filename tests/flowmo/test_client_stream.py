"""Decodes seen while they are made, by both clients, from the real server."""

import asyncio
from contextlib import aclosing, closing

import httpx
import numpy as np
import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.client import (
    AsyncClient,
    Client,
    DecodedImage,
    Preview,
    Progress,
    Sampling,
    ServerRefusedError,
)
from flowmo.model.container import Container
from flowmo.model.inference import InferenceModel
from flowmo.service.engine.runner import Runner
from tests.flowmo.scripted import (
    Asker,
    Reply,
    events,
    image_event,
    problem_document,
    script,
    some_container,
)
from tests.service.pictures import from_file
from tests.service.probes import value, wait_for
from tests.service.runners import Gated, app_of, some_tokens

LONG = Sampling(steps=1000)


@pytest.fixture(scope="module")
def container(inference_model: InferenceModel) -> bytes:
    return Container(
        tokens=some_tokens(), fingerprint=inference_model.fingerprint, width=32, height=32
    ).to_bytes()


def test_progress_previews_and_the_picture(
    ask: Asker, server: ServerProcess, container: bytes
) -> None:
    sampling = Sampling(seed=5, steps=4)
    came = ask(
        server,
        "stream_detokenize",
        container,
        sampling=sampling,
        previews=(2, 4),
        format="webp",
        quality=100,
        request_id="mine",
    )
    kinds = [(type(event), getattr(event, "step", None)) for event in came]
    assert kinds == [
        (Progress, 1),
        (Progress, 2),
        (Preview, 2),
        (Progress, 3),
        (Progress, 4),
        (Preview, 4),
        (DecodedImage, None),
    ]
    assert {event.steps for event in came} == {4}
    early, late, final = came[2], came[5], came[6]
    assert {early.media_type, late.media_type, final.media_type} == {"image/webp"}
    distance = [
        np.abs(from_file(event.data).astype(int) - from_file(final.data)).mean()
        for event in (early, late)
    ]
    assert distance[1] < distance[0]
    assert (final.seed, final.schedule, final.request_id) == (5, "power", "mine")
    assert final.degraded_from is None
    assert set(final.timings) >= {"queue", "sample"}
    plain = ask(server, "detokenize", container, sampling=sampling, format="webp", quality=100)
    assert final.data == plain.data


def test_what_is_refused_before_the_first_step(
    ask: Asker, server: ServerProcess, container: bytes
) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        ask(server, "stream_detokenize", container, sampling=LONG, deadline=0.02)
    assert (caught.value.status, caught.value.code) == (429, "deadline-unreachable")
    assert caught.value.retry_after is not None
    with pytest.raises(ServerRefusedError) as caught:
        ask(server, "stream_detokenize", container, previews=[0])
    assert caught.value.code == "invalid-fields"


def test_a_stream_that_is_left_is_given_up_by_the_server(
    server: ServerProcess, http: httpx.Client, container: bytes
) -> None:
    saved = value(http, "flowmo_steps_saved_total", model="nano", reason="cancelled")
    with Client(server.url) as client:
        for event in client.stream_detokenize(container, sampling=LONG):
            assert event == Progress(step=1, steps=1000)
            break
        # No reference to the events is left, so the connection is closed by now.
        wait_for(http, "flowmo_steps_saved_total", saved + 1, model="nano", reason="cancelled")
        saved = value(http, "flowmo_steps_saved_total", model="nano", reason="cancelled")
        with closing(client.stream_detokenize(container, sampling=LONG)) as news:
            next(news)
        wait_for(http, "flowmo_steps_saved_total", saved + 1, model="nano", reason="cancelled")
        # The client itself goes on.
        assert client.is_ready()
    assert value(http, "flowmo_requests_admitted") == 0


def test_so_it_is_by_coroutines(
    server: ServerProcess, http: httpx.Client, container: bytes
) -> None:
    async def until_given_up(saved: float) -> None:
        await asyncio.to_thread(
            wait_for, http, "flowmo_steps_saved_total", saved + 1, model="nano", reason="cancelled"
        )

    def steps_saved() -> float:
        return value(http, "flowmo_steps_saved_total", model="nano", reason="cancelled")

    async def main() -> None:
        async with AsyncClient(server.url) as client:
            saved = steps_saved()
            async for _ in client.stream_detokenize(container, sampling=LONG):
                break
            await until_given_up(saved)
            saved = steps_saved()
            async with aclosing(client.stream_detokenize(container, sampling=LONG)) as news:
                assert isinstance(await anext(news), Progress)
            await until_given_up(saved)
            saved = steps_saved()
            begun = asyncio.Event()

            async def watch() -> None:
                async for _ in client.stream_detokenize(container, sampling=LONG):
                    begun.set()

            task = asyncio.create_task(watch())
            await begun.wait()
            task.cancel()
            await until_given_up(saved)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.is_ready()

    asyncio.run(main())


def test_what_fails_on_its_way_is_a_refusal(runner: Runner, container: bytes) -> None:
    gated = Gated(runner)

    async def main() -> None:
        app = app_of(gated)
        async with (
            app.router.lifespan_context(app),
            AsyncClient("http://127.0.0.1", transport=httpx.ASGITransport(app)) as client,
        ):
            while not await client.is_ready():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            gated.fail_after = 3
            news = client.stream_detokenize(container, sampling=Sampling(steps=50))
            for step in (1, 2, 3):
                assert await anext(news) == Progress(step=step, steps=50)
            with pytest.raises(ServerRefusedError) as caught:
                await anext(news)
            assert (caught.value.status, caught.value.code) == (500, "compute-failed")
            assert caught.value.request_id

    asyncio.run(main())


def test_events_of_later_servers_are_passed_over(ask: Asker) -> None:
    body = b": a comment\n\n" + events(("hint", {"of": "the future"}), image_event())
    stream = Reply(200, body, {"Content-Type": "text/event-stream"})
    with script(stream) as server:
        (picture,) = ask(server, "stream_detokenize", some_container())
    assert picture.data == b"a picture"


def test_an_error_event_names_its_occurrence(ask: Asker) -> None:
    body = events(("error", problem_document(504, "deadline-exceeded")))
    with (
        script(Reply(200, body, {"Content-Type": "text/event-stream"})) as server,
        pytest.raises(ServerRefusedError, match="504 deadline-exceeded") as caught,
    ):
        ask(server, "stream_detokenize", some_container())
    assert caught.value.request_id == "from-server"
