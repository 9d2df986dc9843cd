"""Deadlines, priorities and degrading over HTTP, on the real server."""

import time

import httpx
import pytest

from flowmo.model.container import MEDIA_TYPE
from flowmo.service.errors import InvalidFieldsError
from flowmo.service.http.deadlines import call_of
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}


def decode(
    http: httpx.Client, container: bytes, headers: dict[str, str], **params: str | int
) -> httpx.Response:
    return http.post(
        "/v1/detokenize",
        content=container,
        headers={"Content-Type": MEDIA_TYPE, **headers},
        params=params,
    )


def test_what_cannot_be_done_in_time_is_refused_with_a_time_to_come_back(
    http: httpx.Client, container: bytes
) -> None:
    answer = decode(http, container, {"X-Request-Timeout-Seconds": "0.02"}, steps=1000)
    assert answer.status_code == 429
    problem = answer.json()
    assert problem["code"] == "deadline-unreachable"
    assert "the deadline is in 0.0" in problem["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert decode(http, container, {"X-Request-Timeout-Seconds": "30"}, steps=2).is_success


def test_with_leave_fewer_steps_are_made_and_said(http: httpx.Client, container: bytes) -> None:
    begin = time.perf_counter()
    assert decode(http, container, {}, steps=1000).is_success
    alone = time.perf_counter() - begin
    # The server's estimate and the machine's speed vary: tighten the deadline until it bites, which
    # it does between a quarter of the estimate and the whole.
    for tightening in range(12):
        limit = {"X-Request-Timeout-Seconds": f"{3 * alone * 0.7**tightening:.3f}"}
        answer = decode(http, container, limit, steps=1000, degrade="allow", seed=3)
        if answer.is_success and "Flowmo-Degraded-From" in answer.headers:
            break
    else:
        pytest.fail("no deadline made it take fewer steps")
    made = int(answer.headers["Flowmo-Steps"])
    assert 250 <= made < 1000
    assert answer.headers["Flowmo-Degraded-From"] == "1000"
    # It is the picture of so many steps.
    again = decode(http, container, {}, steps=made, seed=3)
    assert again.content == answer.content
    assert "Flowmo-Degraded-From" not in again.headers


@pytest.mark.parametrize("priority", ["interactive", "Batch"])
def test_priorities_are_taken(http: httpx.Client, container: bytes, priority: str) -> None:
    assert decode(http, container, {"Flowmo-Priority": priority}).is_success


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Request-Timeout-Seconds", "0"),
        ("X-Request-Timeout-Seconds", "-3"),
        ("X-Request-Timeout-Seconds", "soon"),
        ("X-Request-Timeout-Seconds", "nan"),
        ("X-Request-Timeout-Seconds", "inf"),
        ("Flowmo-Priority", "urgent"),
    ],
)
def test_headers_that_cannot_be_used_are_named(http: httpx.Client, header: str, value: str) -> None:
    answer = http.post("/v1/tokenize", content=PNG, headers={**RAW, header: value})
    assert answer.status_code == 422
    assert [item["field"] for item in answer.json()["errors"]] == [f"header.{header}"]


def test_the_servers_limit_of_time_holds() -> None:
    now = time.monotonic()
    asked = call_of({"X-Request-Timeout-Seconds": "99999"}, default=5, most=60)
    assert 59 < asked.deadline - now < 61
    silent = call_of({}, default=5, most=60)
    assert 4 < silent.deadline - now < 6
    assert silent.priority == "interactive"
    with pytest.raises(InvalidFieldsError):
        call_of({"Flowmo-Priority": ""}, default=5, most=60)
