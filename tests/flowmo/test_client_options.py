"""What the options of clients and calls put into requests."""

from typing import Any

import httpx
import pytest

from flowmo.client import Client, Sampling
from tests.flowmo.scripted import (
    DECODED,
    ENCODED,
    MODELS,
    Asker,
    Reply,
    events,
    image_event,
    script,
    some_container,
)

CONTAINER = some_container()


def test_a_calls_options_win_over_the_clients(ask: Asker) -> None:
    client = {"model": "micro", "priority": "batch"}
    with script(DECODED) as server:
        ask(server, "detokenize", CONTAINER, client=client)
        ask(server, "reconstruct", b"photo", client=client, model="nano", priority="interactive")
    own, given = server.requests
    assert (own.query["model"], own.headers["flowmo-priority"]) == (["micro"], "batch")
    assert (given.query["model"], given.headers["flowmo-priority"]) == (["nano"], "interactive")


def test_nothing_is_sent_that_was_not_asked_for(ask: Asker) -> None:
    with script(ENCODED) as server:
        ask(server, "tokenize", b"photo", client={"model": "micro"}, model=None)
    (request,) = server.requests
    assert request.query == {"fit": ["native"]}
    assert not {"authorization", "flowmo-priority", "x-request-timeout-seconds"} & set(
        request.headers
    )
    assert request.body == b"photo"


def test_all_of_sampling_is_sent(ask: Asker) -> None:
    sampling = Sampling(
        seed=2**62, steps=9, schedule="power", rho=2.5, guidance=0.0, degrade="never"
    )
    expected = {
        "seed": [str(2**62)],
        "steps": ["9"],
        "schedule": ["power"],
        "rho": ["2.5"],
        "guidance": ["0.0"],
        "degrade": ["never"],
        "quality": ["80"],
    }
    stream = Reply(200, events(image_event()), {"Content-Type": "text/event-stream"})
    with script(DECODED, DECODED, stream) as server:
        options: dict[str, Any] = {"sampling": sampling, "quality": 80, "format": "webp"}
        ask(server, "detokenize", CONTAINER, **options)
        ask(server, "reconstruct", b"photo", fit="pad", **options)
        ask(server, "stream_detokenize", CONTAINER, previews=(2, 4), **options)
    decode, both, streamed = server.requests
    assert decode.query == expected
    assert both.query == expected | {"fit": ["pad"]}
    assert streamed.query == expected | {"stream": ["true"], "previews": ["2", "4"]}
    assert {request.headers["accept"] for request in server.requests} == {"image/webp"}
    assert decode.headers["content-type"] == "application/vnd.flowmo"
    assert decode.body == CONTAINER.to_bytes()


def test_fewer_steps_than_asked_for_are_told(ask: Asker) -> None:
    degraded = Reply(200, b"a picture", DECODED.headers | {"Flowmo-Degraded-From": "16"})
    with script(degraded) as server:
        decoded = ask(server, "detokenize", CONTAINER)
    assert (decoded.steps, decoded.degraded_from) == (4, 16)


def test_the_key_is_sent_with_every_request(ask: Asker) -> None:
    with script(MODELS) as server:
        first, second = ask(server, "models", client={"api_key": "k-1"})
        assert ask(server, "is_ready", client={"api_key": "k-1"})
    assert (first.name, second.name) == ("nano", "micro")
    assert [request.path for request in server.requests] == ["/v1/models", "/readyz"]
    for request in server.requests:
        assert request.headers["authorization"] == "Bearer k-1"
        assert request.headers["user-agent"].startswith("flowmo-serve/")


@pytest.mark.parametrize("key", ["", "two\nlines", "schlüssel"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="api_key must be") as caught:
        Client(api_key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"deadline": 0.0},
        {"deadline": -1.0},
        {"deadline": float("nan")},
        {"deadline": float("inf")},
        {"request_id": ""},
        {"request_id": "two words"},
        {"request_id": "x" * 129},
    ],
)
@pytest.mark.parametrize("method", ["detokenize", "stream_detokenize"])
def test_options_out_of_range_are_refused_here(
    ask: Asker, options: dict[str, Any], method: str
) -> None:
    with script(DECODED) as server, pytest.raises(ValueError, match=next(iter(options))):
        ask(server, method, CONTAINER, **options)
    assert server.requests == []


def test_misspelt_options_are_errors(ask: Asker) -> None:
    with script(DECODED) as server, pytest.raises(TypeError, match="dead_line"):
        ask(server, "detokenize", CONTAINER, dead_line=3.0)
    assert server.requests == []


def test_a_path_in_the_url_is_kept(ask: Asker) -> None:
    with script(MODELS) as server:
        server.url += "/behind/a/proxy/"
        ask(server, "models")
    assert server.requests[0].path == "/behind/a/proxy/v1/models"


def test_the_way_of_requests_can_be_chosen() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=MODELS.body)

    with Client("http://nowhere.invalid", transport=httpx.MockTransport(answer)) as client:
        assert [model.name for model in client.models()] == ["nano", "micro"]
