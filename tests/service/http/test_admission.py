"""The admission limiter: requests and bytes, and what is said to whoever comes too much."""

import pytest

from flowmo.service.errors import QueueFullError
from flowmo.service.http.admission import AdmissionLimiter


def test_requests_are_admitted_up_to_the_capacity_and_again_when_one_has_left() -> None:
    limiter = AdmissionLimiter(2, 1000)
    with limiter.admit(10, backlog_seconds=0), limiter.admit(10, backlog_seconds=0):
        assert (limiter.admitted, limiter.admitted_bytes) == (2, 20)
        with (
            pytest.raises(QueueFullError, match="2 requests are inside, at most 2 .*7.4 s") as full,
            limiter.admit(10, backlog_seconds=7.4),
        ):
            pass
        assert full.value.retry_after == 7
    assert (limiter.admitted, limiter.admitted_bytes) == (0, 0)
    with limiter.admit(10, backlog_seconds=0):
        assert limiter.admitted == 1


def test_bytes_are_bounded_but_a_single_request_always_comes_in() -> None:
    limiter = AdmissionLimiter(8, 100)
    with (
        limiter.admit(5000, backlog_seconds=0),
        pytest.raises(QueueFullError, match="bodies of 5,000 bytes are inside, at most 100"),
        limiter.admit(1, backlog_seconds=0),
    ):
        pass
    with limiter.admit(60, backlog_seconds=0), limiter.admit(40, backlog_seconds=0):
        assert limiter.admitted_bytes == 100


def test_a_request_that_fails_leaves_like_any_other() -> None:
    limiter = AdmissionLimiter(1, 100)
    with pytest.raises(ValueError, match="broken"), limiter.admit(1, backlog_seconds=0):
        raise ValueError("broken")
    assert (limiter.admitted, limiter.admitted_bytes) == (0, 0)
