"""Which failures are tried again, after how long, and what each attempt sends."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.client import (
    ClientError,
    ConnectionFailedError,
    Retry,
    ServerRefusedError,
    ServerTimeoutError,
    UnexpectedAnswerError,
)
from flowmo.client.retry import retry_after_seconds
from tests.flowmo.scripted import (
    DECODED,
    DROP,
    ENCODED,
    HOLD,
    MODELS,
    Action,
    Asker,
    Reply,
    events,
    image_event,
    problem,
    script,
    some_container,
)

# Without a first wait nothing is random.
EXACT = Retry(first_wait=0.0)
CONTAINER = some_container()


def refused(status: int, retry_after: float | None = None) -> ServerRefusedError:
    return ServerRefusedError(
        status=status, code="x", detail="", hint="", request_id="", retry_after=retry_after
    )


# --- the decision -------------------------------------------------------------------------------


def test_waits_double_up_to_the_longest() -> None:
    retry = Retry(attempts=10, first_wait=0.5, longest_wait=3.0)
    error = ConnectionFailedError("gone")
    waits = [retry.wait(error, failures=n, left=None, jitter=1.0) for n in range(1, 11)]
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, None]
    assert retry.wait(error, failures=3, left=None, jitter=0.25) == 0.5
    assert Retry(attempts=10**9).wait(error, failures=10**6, left=None, jitter=1.0) == 60.0


@given(
    asked=st.none() | st.floats(0, 1000),
    left=st.none() | st.floats(-10, 1000),
    failures=st.integers(1, 6),
    jitter=st.floats(0, 1),
    longest=st.floats(0, 1000),
)
def test_a_wait_is_as_long_as_asked_for_and_ends_before_the_deadline(
    asked: float | None, left: float | None, failures: int, jitter: float, longest: float
) -> None:
    retry = Retry(attempts=6, longest_wait=longest)
    wait = retry.wait(refused(429, asked), failures=failures, left=left, jitter=jitter)
    least = asked or 0.0
    if failures == 6 or least > longest or (left is not None and least >= left):
        assert wait is None
        return
    assert wait is not None
    assert least <= wait <= max(longest, least)
    assert left is None or wait < left


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"first_wait": -0.1},
        {"first_wait": math.nan},
        {"longest_wait": math.inf},
    ],
)
def test_policies_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Retry(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("1.5", 1.5),
        ("Tue, 03 Mar 2026 10:00:07 GMT", 7.0),
        ("Tue, 03 Mar 2026 09:59:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("1e9", None),
        ("Tue, 99 Mar 2026 10:00:07 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_seconds(value, date="Tue, 03 Mar 2026 10:00:00 GMT") == seconds


def test_a_date_is_measured_by_this_clock_if_the_server_tells_no_time() -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    seconds = retry_after_seconds(format_datetime(later, usegmt=True))
    assert seconds is not None
    assert 3000 < seconds <= 3600


# --- the attempts -------------------------------------------------------------------------------


def test_the_servers_wait_is_kept(ask: Asker) -> None:
    busy = problem(429, "queue-full", Retry_After="2")
    warming = problem(503, "not-ready", Retry_After="7")
    with script(busy, warming, ENCODED) as server:
        encoded = ask(server, "tokenize", b"photo", retry=EXACT)
    assert encoded.container == CONTAINER
    assert ask.clock.sleeps == [2.0, 7.0]
    first, second, third = server.requests
    assert first.headers["x-request-id"]
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    assert (first.body, first.query, first.headers) == (third.body, third.query, third.headers)


def test_a_date_of_http_is_waited_for(ask: Asker) -> None:
    dates = {"Date": "Tue, 03 Mar 2026 10:00:00 GMT"}
    busy = problem(503, "not-ready", Retry_After="Tue, 03 Mar 2026 10:00:09 GMT", **dates)
    with script(busy, DECODED) as server:
        ask(server, "detokenize", CONTAINER, retry=EXACT)
    assert ask.clock.sleeps == [9.0]


def test_each_request_of_a_call_has_another_id(ask: Asker) -> None:
    with script(MODELS) as server:
        ask(server, "models")
        ask(server, "models")
    assert len({request.headers["x-request-id"] for request in server.requests}) == 2


def test_without_the_servers_word_waits_are_random_and_grow(ask: Asker) -> None:
    bad_gateway = Reply(502, b"<html>no upstream</html>", {"Content-Type": "text/html"})
    with script(DROP, problem(503, "engine-stopped"), bad_gateway, DECODED) as server:
        assert ask(server, "reconstruct", b"photo").data == b"a picture"
    assert len(ask.clock.sleeps) == 3
    for wait, most in zip(ask.clock.sleeps, (0.5, 1.0, 2.0), strict=True):
        assert 0.0 <= wait <= most


@pytest.mark.parametrize("action", [DROP, Reply(200, b"half", cut=True)])
def test_a_connection_that_broke_is_tried_again(ask: Asker, action: Action) -> None:
    with script(action, DECODED) as server:
        assert ask(server, "detokenize", CONTAINER, retry=EXACT).data == b"a picture"
    assert len(server.requests) == 2


def test_no_more_attempts_than_allowed(ask: Asker) -> None:
    with script(problem(503, "not-ready", Retry_After="1")) as server:
        with pytest.raises(ServerRefusedError) as caught:
            ask(server, "models", client={"retry": Retry(attempts=3, first_wait=0.0)})
        assert (caught.value.code, caught.value.retry_after) == ("not-ready", 1.0)
        assert len(server.requests) == 3
        with pytest.raises(ServerRefusedError):
            ask(server, "models", retry=Retry.none())
        assert not ask(server, "is_ready")
    assert len(server.requests) == 5
    assert ask.clock.sleeps == [1.0, 1.0]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "not-a-container"),
        (409, "container-mismatch"),
        (422, "invalid-fields"),
        (500, "compute-failed"),
        (504, "deadline-exceeded"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(ask: Asker, status: int, code: str) -> None:
    with (
        script(problem(status, code, Retry_After="1"), DECODED) as server,
        pytest.raises(ServerRefusedError) as caught,
    ):
        ask(server, "detokenize", CONTAINER)
    error = caught.value
    assert (error.status, error.code, error.request_id) == (status, code, "from-server")
    assert str(error) == f"{status} {code}: detail of {code} Mend it."
    assert len(server.requests) == 1


def test_a_late_answer_is_not_tried_again(ask: Asker) -> None:
    with (
        script(HOLD, DECODED) as server,
        pytest.raises(ServerTimeoutError),
    ):
        ask(server, "detokenize", CONTAINER, client={"timeout": 0.1})
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>Welcome</html>", {"Content-Type": "text/html"}),
        Reply(200, b"[]", {"Content-Type": "application/json"}),
        Reply(200, b'{"models": [{"name": "x"}]}', {"Content-Type": "application/json"}),
        Reply(200, b"no gzip", {"Content-Encoding": "gzip"}),
    ],
)
@pytest.mark.parametrize("method", ["models", "tokenize", "tokenize_many", "stream_detokenize"])
def test_another_kind_of_server_is_told(ask: Asker, reply: Reply, method: str) -> None:
    arguments = {"models": (), "tokenize_many": ([b"photo"],)}.get(method, (b"x",))
    with script(reply) as server, pytest.raises(UnexpectedAnswerError, match="right URL"):
        ask(server, method, *arguments)
    assert len(server.requests) == 1


def test_a_refusal_in_another_form_is_one_too(ask: Asker) -> None:
    with (
        script(Reply(403, b"<html>Go away</html>", {"Content-Type": "text/html"})) as server,
        pytest.raises(ServerRefusedError, match="403 unknown: Forbidden"),
    ):
        ask(server, "models")


# --- deadlines ----------------------------------------------------------------------------------

TIMEOUT = "x-request-timeout-seconds"


def test_each_attempt_sends_the_time_that_is_left(ask: Asker) -> None:
    busy = problem(429, "queue-full", Retry_After="2")
    with script(busy, problem(503, "not-ready", Retry_After="3"), DECODED) as server:
        ask(server, "detokenize", CONTAINER, client={"retry": EXACT, "deadline": 10.0})
    sent = [float(request.headers[TIMEOUT]) for request in server.requests]
    assert sent == [10.0, 8.0, 5.0]


@pytest.mark.parametrize("wait", ["5", "6", "3600"])
def test_a_wait_beyond_the_deadline_is_not_begun(ask: Asker, wait: str) -> None:
    with (
        script(problem(429, "queue-full", Retry_After=wait), DECODED) as server,
        pytest.raises(ServerRefusedError) as caught,
    ):
        ask(server, "detokenize", CONTAINER, deadline=5.0)
    assert caught.value.retry_after == float(wait)
    assert len(server.requests) == 1
    assert ask.clock.sleeps == []


def test_all_waits_together_end_before_the_deadline(ask: Asker) -> None:
    begin = ask.clock.now()
    with script(DROP) as server, pytest.raises(ConnectionFailedError):
        ask(server, "models", retry=Retry(attempts=30, first_wait=8.0), deadline=5.0)
    assert ask.clock.now() < begin + 5.0
    assert len(server.requests) > 2


def test_without_a_deadline_the_server_has_its_own(ask: Asker) -> None:
    with script(DECODED) as server:
        ask(server, "detokenize", CONTAINER)
        ask(server, "detokenize", CONTAINER, client={"deadline": 9.0}, deadline=None)
        ask(server, "detokenize", CONTAINER, client={"deadline": 9.0}, deadline=4.0)
    assert [request.headers.get(TIMEOUT) for request in server.requests] == [None, None, "4.000"]


# --- streams ------------------------------------------------------------------------------------

STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}
FIRST = ("progress", {"step": 1, "steps": 2})


def test_a_stream_is_tried_again_until_it_begins(ask: Asker) -> None:
    busy = problem(429, "queue-full", Retry_After="2")
    stream = Reply(200, events(FIRST, image_event()), STREAM)
    with script(busy, DROP, stream) as server:
        *_, picture = ask(server, "stream_detokenize", CONTAINER, retry=EXACT, deadline=10.0)
    assert picture.data == b"a picture"
    assert ask.clock.sleeps == [2.0, 0.0]
    assert [request.headers[TIMEOUT] for request in server.requests] == ["10.000", "8.000", "8.000"]


@pytest.mark.parametrize("cut", [True, False])
def test_a_stream_that_began_is_not_tried_again(ask: Asker, cut: bool) -> None:
    with (
        script(Reply(200, events(FIRST), STREAM, cut=cut)) as server,
        pytest.raises(ConnectionFailedError),
    ):
        ask(server, "stream_detokenize", CONTAINER)
    assert len(server.requests) == 1


def test_no_server_at_all() -> None:
    server = script(DECODED)
    with server:
        pass
    for kind in ("sync", "async"):
        ask = Asker(kind)
        with pytest.raises(ClientError, match="no server at .* flowmo serve"):
            ask(server, "models")
        assert len(ask.clock.sleeps) == 3
        assert not ask(server, "is_ready")
