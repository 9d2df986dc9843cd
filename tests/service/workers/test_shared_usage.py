"""Rates and places of a key, counted together by all gateways of a machine."""

from pathlib import Path

import pytest

from flowmo.service.errors import RateLimitedError
from flowmo.service.http.keys import KeyEntry
from flowmo.service.workers.shared_usage import UsageTable


def entry(**limits: float) -> KeyEntry:
    return KeyEntry.model_validate({"sha256": "0" * 64, **limits})


def test_a_rate_holds_for_all_gateways_together(tmp_path: Path) -> None:
    tables = [UsageTable(tmp_path / "usage", number, 3) for number in range(3)]
    slow = entry(rate=0.001, burst=4, steps=0.001)
    usages = [table.usage("team-a", slow) for table in tables]
    other = tables[0].usage("team-b", slow)
    for usage in (*usages, usages[0]):
        usage.take()
    with pytest.raises(RateLimitedError, match="requests a second"):
        usages[1].take()
    other.take()  # a key of its own
    usages[2].compute(steps=1000)  # begun when the allowance is full, and paid for later
    with pytest.raises(RateLimitedError, match="steps a second"):
        usages[0].compute(steps=1)
    # Other limits are another key, as in one process.
    tables[1].usage("team-a", entry(rate=0.001, burst=5)).take()


def test_places_are_shared_and_those_of_a_gateway_that_died_are_free(tmp_path: Path) -> None:
    path = tmp_path / "usage"
    first, second = (UsageTable(path, n, 2).usage("team-a", entry(concurrency=2)) for n in range(2))
    first.take()
    second.take()
    with pytest.raises(RateLimitedError, match="2 requests inside"):
        first.take()
    first.leave()
    second.take()
    with pytest.raises(RateLimitedError):
        first.take()
    # Killed with two inside; its successor has none.
    successor = UsageTable(path, 1, 2).usage("team-a", entry(concurrency=2))
    first.take()
    successor.take()
    with pytest.raises(RateLimitedError):
        successor.take()
