"""An HTTP server that answers as it is told, clocks that do not wait, both clients as one."""

import asyncio
import base64
import email
import email.policy
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Protocol, Self
from urllib.parse import parse_qs, urlsplit

import numpy as np

from flowmo.client import AsyncClient, AsyncClock, Client, Clock
from flowmo.model.container import Container
from flowmo.model.tokens import Tokens


@dataclass(frozen=True)
class Request:
    """What came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in lower case
    body: bytes

    def parts(self) -> list[tuple[str, bytes]]:
        """Names and contents of a multipart form's files, in order."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + self.body, policy=email.policy.HTTP)
        found = []
        for part in message.iter_parts():
            if part.get_filename():
                content = part.get_payload(decode=True)
                assert isinstance(content, bytes)
                found.append((str(part.get_param("name", header="content-disposition")), content))
        return found


@dataclass(frozen=True)
class Reply:
    """What to answer.

    With ``cut`` the connection is closed before the body is complete.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


DROP: Literal["drop"] = "drop"  # the connection, without an answer
HOLD: Literal["hold"] = "hold"  # the connection, without an answer, until the client leaves
Action = Reply | Literal["drop", "hold"]


def problem(status: int, code: str, **headers: str) -> Reply:
    """An error as the service answers it; underscores in names of headers are dashes."""
    document = problem_document(status, code)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        status,
        json.dumps(document).encode(),
        {"Content-Type": "application/problem+json", "X-Request-ID": "from-server", **named},
    )


def problem_document(status: int, code: str) -> dict[str, object]:
    return {
        "type": f"urn:flowmo:problem:{code}",
        "title": "A title",
        "status": status,
        "detail": f"detail of {code}",
        "instance": "urn:flowmo:request:from-server",
        "code": code,
        "hint": "Send it again.",
    }


def some_container(value: int = 7) -> Container:
    tokens = Tokens(ids=np.full((16, 3), value, np.int32), group_bits=4)
    return Container(tokens=tokens, fingerprint="ab" * 16, width=32, height=32)


DECODED_HEADERS = {
    "Content-Type": "image/png",
    "Flowmo-Seed": "0",
    "Flowmo-Steps": "4",
    "Flowmo-Schedule": "power",
    "Flowmo-Guidance": "1.5",
}
ENCODED = Reply(
    body=some_container().to_bytes(),
    headers={
        "Content-Type": "application/vnd.flowmo",
        "Flowmo-Upload-Size": "48x40",
        "Flowmo-Token-Bytes": "24",
    },
)
DECODED = Reply(body=b"a picture", headers=DECODED_HEADERS)
MODELS = Reply(
    body=json.dumps(
        {
            "models": [
                {
                    "name": name,
                    "fingerprint": "ab" * 16,
                    "image_size": 32,
                    "code_length": 16,
                    "token_bits": 12,
                    "group_bits": 4,
                    "payload_bytes": 24,
                    "a_field_of_a_later_server": True,
                }
                for name in ("nano", "micro")
            ]
        }
    ).encode(),
    headers={"Content-Type": "application/json"},
)


def events(*some: tuple[str, Mapping[str, object]]) -> bytes:
    return b"".join(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() for name, data in some)


def image_event(data: bytes = b"a picture") -> tuple[str, dict[str, object]]:
    picture = {"media_type": "image/png", "image": base64.b64encode(data).decode()}
    return "image", {**picture, "headers": DECODED_HEADERS}


class ScriptedServer:
    """Answers by a function, or with given answers in turn.

    Attributes:
        url: where it listens.
        requests: that came, in order.
    """

    def __init__(self, answer: Callable[[Request], Action]) -> None:
        self.requests: list[Request] = []
        self._answer = answer
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                url = urlsplit(self.path)
                request = Request(
                    method=self.command,
                    path=url.path,
                    query=parse_qs(url.query),
                    headers={name.lower(): value for name, value in self.headers.items()},
                    body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
                )
                outer.requests.append(request)
                reply = outer._answer(request)
                if not isinstance(reply, Reply):
                    if reply == HOLD:
                        self.rfile.read(1)
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body) + reply.cut))
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection = reply.cut

            do_GET = do_POST  # noqa: N815

            # The default ones are of the day on which the tests run, and talkative.
            def send_response(self, code: int, message: str | None = None) -> None:
                self.send_response_only(code, message)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def script(*actions: Action) -> ScriptedServer:
    """These answers in turn; the last of them again and again."""
    left = list(actions)
    return ScriptedServer(lambda _: left.pop(0) if len(left) > 1 else left[0])


class FakeClock(Clock):
    """Sleeping takes no time and is written down."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds


class FakeAsyncClock(AsyncClock):
    """The same for coroutines."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now()

    async def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)


class Located(Protocol):
    """A server that is there."""

    url: str


class Asker:
    """Calls one method of a client of either kind.

    Attributes:
        clock: of its clients.
    """

    def __init__(self, kind: str) -> None:
        self.clock = FakeClock()
        self._kind = kind

    def __call__(
        self,
        server: Located,
        method: str,
        *arguments: object,
        client: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """The result of ``method``; a list for a stream.

        Args:
            server: to ask.
            method: of the client.
            *arguments: of the method.
            client: options of the client.
            **options: of the method.
        """
        if self._kind == "sync":
            with Client(server.url, clock=self.clock, **client or {}) as it:
                result = getattr(it, method)(*arguments, **options)
                return list(result) if isinstance(result, Iterator) else result

        async def main() -> Any:
            clock = FakeAsyncClock(self.clock)
            async with AsyncClient(server.url, clock=clock, **client or {}) as it:
                result = getattr(it, method)(*arguments, **options)
                if isinstance(result, AsyncIterator):
                    return [event async for event in result]
                return await result

        return asyncio.run(main())
