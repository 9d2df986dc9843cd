"""What Ray's proxies answer themselves are problems, and bodies wait until there is room."""

import asyncio
import json
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowmo.service.cluster.proxy import BodyRoom, ProxyAnswers, ProxyLimits, middlewares
from flowmo.service.settings import Settings

OURS = {"X-Content-Type-Options": "nosniff"}


def ask(app: ASGIApp, path: str = "/v1/tokenize", **headers: str) -> list[Message]:
    """Everything that an application sends."""
    sent: list[Message] = []

    async def main() -> None:
        messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            if not messages:
                await asyncio.Event().wait()
            return messages.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        raw = [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": raw}
        await ProxyAnswers(app)(scope, receive, send)

    asyncio.run(main())
    return sent


def problem_of(sent: list[Message]) -> tuple[int, dict[str, str], dict[str, Any]]:
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert headers["content-type"] == "application/problem+json"
    document = json.loads(body["body"])
    assert document["status"] == start["status"]
    return start["status"], headers, document


@pytest.mark.parametrize(
    ("ray", "headers", "status", "code", "retry_after"),
    [
        (404, {}, 503, "not-ready", "1"),
        (408, {}, 504, "deadline-exceeded", None),
        (429, {"Retry-After": "3"}, 429, "queue-full", "3"),
        (503, {}, 503, "not-ready", "1"),
        (500, {}, 503, "gateway-lost", "1"),
    ],
)
def test_rays_plain_text_becomes_a_problem(
    ray: int, headers: dict[str, str], status: int, code: str, retry_after: str | None
) -> None:
    app = PlainTextResponse("something", ray, headers={**headers, "X-Request-ID": "mine"})
    found, answered, document = problem_of(ask(app))
    assert (found, document["code"]) == (status, code)
    assert answered.get("retry-after") == retry_after
    assert answered["x-request-id"] == "mine"
    assert document["instance"].endswith(":mine")


def test_answers_of_gateways_pass_as_they_are() -> None:
    for response in (
        Response("{}", 429, headers=OURS),
        Response("{}", 404, headers=OURS),
        PlainTextResponse("fine"),
    ):
        start, body = ask(response)
        assert (start["status"], body["body"]) == (response.status_code, response.body)
    streamed = ask(StreamingResponse(iter([b"a", b"b"]), headers=OURS))
    assert [message.get("body") for message in streamed] == [None, b"a", b"b", b""]


def test_rays_own_routes_are_left_alone() -> None:
    start, body = ask(PlainTextResponse("no", 503), "/-/healthz")
    assert (start["status"], body["body"]) == (503, b"no")


def test_a_stranger_cannot_have_work_done_after_leaving() -> None:
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(name for name, _ in scope["headers"])

    ask(app, x_request_disconnect_disabled="1", accept="image/png")
    assert seen == [b"accept"]


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """A proxy whose gateway has died: Ray sends nothing."""


def test_a_gateway_that_dies_is_a_problem() -> None:
    status, headers, document = problem_of(ask(silent, x_request_id="mine"))
    assert (status, document["code"], headers["retry-after"]) == (503, "gateway-lost", "1")
    assert document["instance"].endswith(":mine")


@pytest.mark.parametrize(("media_type", "events"), [("text/event-stream", 1), ("image/png", 0)])
def test_a_stream_whose_gateway_dies_ends_with_an_error(media_type: str, events: int) -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", media_type.encode()), (b"x-content-type-options", b"nosniff")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})

    sent = ask(half)
    assert len(sent) == 2 + events
    if events:
        assert not sent[-1].get("more_body", False)
        name, data = sent[-1]["body"].decode().splitlines()[:2]
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: "))["code"] == "gateway-lost"


def test_an_answer_that_is_cut_before_its_body_is_a_problem() -> None:
    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"292"), (b"x-content-type-options", b"nosniff")]
        await send({"type": "http.response.start", "status": 429, "headers": headers})

    assert problem_of(ask(cut))[2]["code"] == "gateway-lost"
    late = ask(cut, x_request_timeout_seconds="0")
    assert problem_of(late)[2]["code"] == "deadline-exceeded"


# --- bodies -------------------------------------------------------------------------------------


class Client:
    """A client that sends a body without end, in pieces of 10 bytes; its proxy reads all it can."""

    def __init__(self) -> None:
        self.sent = 0
        self.answered = asyncio.Event()

    async def receive(self) -> Message:
        self.sent += 10
        return {"type": "http.request", "body": b"0123456789", "more_body": True}

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def read() -> None:
            while True:
                await receive()
                await asyncio.sleep(0)

        reading = asyncio.create_task(read())
        await scope["client"].answered.wait()
        reading.cancel()


def test_bodies_are_read_only_while_there_is_room() -> None:
    async def main() -> None:
        clients = [Client() for _ in range(4)]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await scope["client"].app(scope, receive, send)

        async def send(_: Message) -> None:
            raise AssertionError

        room = BodyRoom(app, ProxyLimits(body_bytes=100, total_bytes=250))
        tasks = [
            asyncio.create_task(room({"type": "http", "client": one}, one.receive, send))
            for one in clients
        ]

        async def settled() -> int:
            for _ in range(200):
                await asyncio.sleep(0)
            return sum(one.sent for one in clients)

        # Pieces that were under way when the room was used up are read, no others.
        assert 250 <= await settled() <= 250 + 4 * 10
        assert max(one.sent for one in clients) <= 110
        before = room.kept_bytes
        clients[0].answered.set()
        assert await settled() > before
        assert room.kept_bytes <= 250 + 4 * 10
        for one in clients:
            one.answered.set()
        await asyncio.gather(*tasks)
        assert room.kept_bytes == 0

    asyncio.run(main())


def test_one_body_may_always_come_and_the_end_of_a_client_is_seen() -> None:
    async def main() -> None:
        pieces: list[Message] = [
            {"type": "http.request", "body": b"x" * 400, "more_body": True},
            {"type": "http.request", "body": b"x" * 400, "more_body": False},
            {"type": "http.disconnect"},
        ]
        seen: list[str] = []

        async def receive() -> Message:
            return pieces.pop(0)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend([(await receive())["type"] for _ in range(3)])

        async def send(_: Message) -> None:
            raise AssertionError

        room = BodyRoom(app, ProxyLimits(body_bytes=1000, total_bytes=100))
        await asyncio.wait_for(room({"type": "http"}, receive, send), 10)
        assert seen == ["http.request", "http.request", "http.disconnect"]

    asyncio.run(main())


def test_the_limits_travel_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ProxyLimits.of(Settings(max_body_bytes=5000, max_concurrent_bytes=70_000))
    variables = limits.to_environment()
    assert ProxyLimits.from_environment(variables) == limits
    assert ProxyLimits.from_environment({}) == ProxyLimits.of(Settings())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = [(middleware.cls, middleware.kwargs) for middleware in middlewares()]
    expected: list[Any] = [(BodyRoom, {"limits": limits}), (ProxyAnswers, {})]
    assert found == expected
