"""Server-Sent Events by the rules of the HTML standard, wherever their bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.client import Client, UnexpectedAnswerError
from flowmo.client.events import EventParser, ServerEvent
from tests.flowmo.scripted import Asker, Reply, events, image_event, script, some_container

BODY = (
    "\ufeff: a comment\n\n"
    "event: progress\ndata: {\ndata: }\n\n"
    "id: 7\nretry: 10\nevent:preview\ndata:  one space stays\r\n\r\n"
    "data: no name\r\r"
    "event: nothing to say\n\n"
    "data\n\n"
    "event: line ends of other kinds\ndata: a\u2028b\x0bc\x85d\n\n"
    "event: image\ndata: never ended"
).encode()
EXPECTED = [
    ServerEvent("progress", "{\n}"),
    ServerEvent("preview", " one space stays"),
    ServerEvent("message", "no name"),
    ServerEvent("message", ""),
    ServerEvent("line ends of other kinds", "a\u2028b\x0bc\x85d"),
]


@given(st.lists(st.integers(0, len(BODY)), max_size=20))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: list[int]) -> None:
    parser = EventParser()
    edges = [0, *sorted(cuts), len(BODY)]
    came = [event for start, end in pairwise(edges) for event in parser.feed(BODY[start:end])]
    assert came == EXPECTED


def test_byte_by_byte() -> None:
    parser = EventParser()
    assert [event for byte in BODY for event in parser.feed(bytes([byte]))] == EXPECTED


def test_an_answer_that_is_no_stream_is_unexpected(ask: Asker) -> None:
    body = events(image_event())
    for media_type in ("application/json", "text/event-streams", ""):
        reply = Reply(200, body, {"Content-Type": media_type})
        with (
            script(reply) as server,
            pytest.raises(UnexpectedAnswerError, match="not text/event-stream"),
        ):
            ask(server, "stream_detokenize", some_container())
    named = Reply(200, body, {"Content-Type": "text/event-stream; charset=utf-8"})
    with script(named) as server, Client(server.url) as client:
        assert len(list(client.stream_detokenize(some_container()))) == 1
