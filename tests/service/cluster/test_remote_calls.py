"""What one replica refuses another is asked to do, and what is refused by all says when."""

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from flowmo.service.cluster.known_backlog import KnownBacklog
from flowmo.service.cluster.remote_calls import TRIES, RemoteCalls
from flowmo.service.cluster.router import OtherReplicaRouter
from flowmo.service.engine.calls import NO_DEADLINE
from flowmo.service.engine.messages import CallMessage, RemoteError
from flowmo.service.errors import (
    ComputeError,
    DeadlineUnreachableError,
    QueueFullError,
    RequestError,
)

ROOT = Path(__file__).parents[3]


class Replicas:
    """Replicas that answer in turn."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked: list[frozenset[str]] = []

    async def __call__(self, refused_by: frozenset[str]) -> Any:
        self.asked.append(refused_by)
        answer = self._answers[len(self.asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


def full(replica: str, retry_after: int = 5) -> RemoteError:
    return RemoteError(QueueFullError("full", retry_after=retry_after), replica)


def done(replicas: Replicas, *, backlog: float = 0.0) -> Any:
    async def info() -> Any:
        raise AssertionError("nobody asked")

    async def main() -> Any:
        calls = RemoteCalls(SimpleNamespace(), info, lambda: backlog)  # type: ignore[arg-type]
        return await calls.until_done(replicas, NO_DEADLINE)

    return asyncio.run(main())


def test_another_replica_is_asked_before_the_client_is_refused() -> None:
    late = RemoteError(DeadlineUnreachableError("late", retry_after=2), "b")
    replicas = Replicas(full("a"), late, "picture")
    assert done(replicas) == "picture"
    assert replicas.asked == [frozenset(), frozenset("a"), frozenset("ab")]


@pytest.mark.parametrize("after", [[9, 3, 6], [2, 8, 8]])
def test_what_several_refuse_says_the_soonest_time(after: Sequence[int]) -> None:
    replicas = Replicas(*(full(name, seconds) for name, seconds in zip("abc", after, strict=True)))
    with pytest.raises(QueueFullError) as caught:
        done(replicas)
    assert caught.value.retry_after == min(after)
    assert len(replicas.asked) == TRIES


def test_the_only_replica_is_asked_no_third_time() -> None:
    replicas = Replicas(full("a"), full("a"))
    with pytest.raises(QueueFullError):
        done(replicas)


def test_what_is_wrong_with_the_work_is_wrong_everywhere() -> None:
    for error in (ComputeError("failed"), RequestError("no")):
        with pytest.raises(type(error)):
            done(Replicas(RemoteError(error, "a")))


def test_a_replica_that_dies_is_no_refusal() -> None:
    replicas = Replicas(full("a"), ActorDiedError(), "picture")
    assert done(replicas) == "picture"
    assert replicas.asked[1:] == [frozenset("a")] * 2


@pytest.mark.parametrize(("backlog", "seconds"), [(0.0, 1), (7.2, 8)])
def test_rays_own_refusal_says_how_long_the_known_work_takes(backlog: float, seconds: int) -> None:
    full = BackPressureError(num_queued_requests=3, max_queued_requests=3)
    with pytest.raises(QueueFullError) as caught:
        done(Replicas(full), backlog=backlog)
    assert caught.value.retry_after == seconds


# --- what is known of the backlog ---------------------------------------------------------------


def test_the_backlog_is_what_replicas_said_less_the_time_since() -> None:
    now, said = [100.0], [[4.0, 8.0]]

    async def ask() -> list[float]:
        if not said:
            raise ConnectionError("nobody is there")
        return said.pop()

    async def main() -> None:
        known = KnownBacklog(ask, clock=lambda: now[0])
        assert known.seconds == 0.0
        await known.learn()
        assert known.seconds == 6.0
        now[0] += 2.5
        await known.learn()  # nobody answers: it stays
        assert known.seconds == 3.5
        now[0] += 10
        assert known.seconds == 0.0
        said.append([])  # there is no replica
        await known.learn()
        assert known.seconds == 0.0

    asyncio.run(main())


# --- Ray's router -------------------------------------------------------------------------------


def _choose(refused: str, *, replicas: str = "abcd") -> set[str]:
    router: Any = OtherReplicaRouter.__new__(OtherReplicaRouter)
    running = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in replicas]
    message = CallMessage(remaining=math.inf, priority="interactive", refused_by=frozenset(refused))
    context = SimpleNamespace(should_backoff=False)
    pending = SimpleNamespace(args=["tokens", message], kwargs={}, routing_context=context)
    ranks = asyncio.run(router.choose_replicas(running, pending))
    assert context.should_backoff
    return {replica.replica_id.unique_id for rank in ranks for replica in rank}


@pytest.mark.parametrize(
    ("refused", "others"), [("", "abcd"), ("ab", "cd"), ("abd", "c"), ("abcd", "abcd")]
)
def test_a_replica_that_has_refused_is_chosen_last(refused: str, others: str) -> None:
    chosen = [_choose(refused) for _ in range(50)]
    assert all(one <= set(others) and len(one) == min(2, len(others)) for one in chosen)
    assert set.union(*chosen) == set(others)


def test_no_replica_is_chosen_where_there_is_none() -> None:
    assert _choose("a", replicas="") == set()


def test_on_ray_each_of_three_replicas_is_asked_until_one_does_it() -> None:
    """Also that gateways learn of the work that waits in replicas."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.service.cluster.refusing"],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=240,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    answer = ended.stdout
    # Ray writes lines of its own.
    (line,) = (line for line in answer.splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert all(found["done"])
    assert 0 < found["refusals"] <= 2 * len(found["done"])
    assert (found["least"], found["asked"]) == (7, 3)
    assert 30 < found["backlog"] <= 40
