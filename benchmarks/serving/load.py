"""Sending: at planned instants whatever becomes of the others, or as fast as answers come."""

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from benchmarks.serving.scrape import Computed, Snapshot, snapshot
from benchmarks.serving.workload import Ask

DETOKENIZE = "/v1/detokenize"
DEADLINE_HEADER = "X-Request-Timeout-Seconds"
# How long an answer is waited for; above the server's own limit for a request without a deadline.
PATIENCE = 180.0
# Below the server's 5 s, so that no request is sent on a connection that is just being closed.
_KEEP_ALIVE = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one request; instants are in seconds from the first one's plan.

    Attributes:
        ask: the request.
        planned: when it was to be sent. Latency counts from here, so that a sender that falls
            behind (the server's fault or its own) cannot hide waiting.
        sent: when it was sent.
        done: when the whole answer was there, or it was clear that none would come.
        status: of HTTP; None if no answer came.
        problem: what the server called it, or the error that kept the answer from coming.
        stages: the server's own times by stage, in seconds.
        size: of the body, in bytes.
    """

    ask: Ask
    planned: float
    sent: float
    done: float
    status: int | None
    problem: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    size: int = 0

    @property
    def is_answer(self) -> bool:
        """Whether a picture came."""
        return self.status == httpx.codes.OK

    @property
    def latency(self) -> float:
        """Seconds from the planned instant to the end of the answer."""
        return self.done - self.planned

    @property
    def lag(self) -> float:
        """Seconds by which it was sent late."""
        return self.sent - self.planned


def connect(url: str) -> httpx.AsyncClient:
    """A client that opens as many connections as there are requests inside."""
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_ALIVE
    )
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False)


async def open_loop(
    client: httpx.AsyncClient,
    asks: Sequence[Ask],
    arrivals: Sequence[float],
    *,
    deadline: float | None = None,
    patience: float = PATIENCE,
) -> list[Outcome]:
    """Send each request at its instant, whether or not others have been answered.

    Args:
        client: of the server.
        asks: the requests.
        arrivals: their instants, ascending, in seconds from now.
        deadline: the seconds that each request allows the server.
        patience: how long an answer is waited for.

    Returns:
        What became of every request, in their order.
    """
    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for ask, planned in zip(asks, arrivals, strict=True):
            if (wait := begin + planned - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            sending = send(
                client, ask, begin=begin, planned=planned, deadline=deadline, patience=patience
            )
            tasks.append(group.create_task(sending))
    return [task.result() for task in tasks]


async def send(
    client: httpx.AsyncClient,
    ask: Ask,
    *,
    begin: float,
    planned: float | None = None,
    deadline: float | None = None,
    patience: float = PATIENCE,
) -> Outcome:
    """Send one request now.

    Args:
        client: of the server.
        ask: the request.
        begin: what instants count from, in ``time.monotonic()``.
        planned: when it was to be sent; now by default.
        deadline: the seconds that each request allows the server.
        patience: how long an answer is waited for.
    """
    headers = ask.headers if deadline is None else ask.headers | {DEADLINE_HEADER: f"{deadline}"}
    sent = time.monotonic() - begin
    answer: httpx.Response | None = None
    problem = ""
    try:
        async with asyncio.timeout(patience):
            answer = await client.post(
                DETOKENIZE, content=ask.body, params=ask.params, headers=headers
            )
    except (httpx.TransportError, TimeoutError) as error:
        problem = type(error).__name__
    done = time.monotonic() - begin
    if answer is not None and not answer.is_success:
        problem = _code(answer)
    return Outcome(
        ask=ask,
        planned=sent if planned is None else planned,
        sent=sent,
        done=done,
        status=None if answer is None else answer.status_code,
        problem=problem,
        stages={} if answer is None else read_stages(answer.headers.get("Server-Timing", "")),
        size=0 if answer is None else len(answer.content),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturated:
    """A server that always had enough to do.

    Attributes:
        outcomes: of all requests, those before and after the measured time too.
        computed: in the measured time.
    """

    outcomes: list[Outcome]
    computed: Computed


async def closed_loop(
    client: httpx.AsyncClient,
    asks: Iterator[Ask],
    *,
    concurrency: int,
    ramp: float,
    seconds: float,
) -> Saturated:
    """Keep so many requests inside all the time, and see how much is computed.

    Args:
        client: of the server.
        asks: without end.
        concurrency: requests inside at once.
        ramp: seconds before the measured time.
        seconds: measured.

    Raises:
        ValueError: nothing was computed in so short a time.
    """
    begin = time.monotonic()
    outcomes: list[Outcome] = []
    # When the next reading is due; None while one is made, infinite after the second.
    due: float | None = ramp
    readings: list[Snapshot] = []

    async def client_of_many() -> None:
        nonlocal due
        while due != math.inf:
            outcome = await send(client, next(asks), begin=begin)
            outcomes.append(outcome)
            # Answers come when a tick ends, so both readings are made at the same phase of one:
            # else what is measured would be uncertain by a whole tick.
            if due is not None and outcome.done >= due:
                due = None
                readings.append(await snapshot(client))
                due = outcome.done + seconds if len(readings) == 1 else math.inf

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(client_of_many())
    computed = Computed.between(*readings)
    if not computed.rows:
        raise ValueError(f"nothing was computed in {seconds} s; take more")
    return Saturated(outcomes=outcomes, computed=computed)


def read_stages(header: str) -> dict[str, float]:
    """Seconds by stage of a ``Server-Timing`` header."""
    stages = {}
    for entry in header.split(","):
        name, found, value = entry.strip().partition(";dur=")
        if found:
            stages[name] = float(value) / 1e3
    return stages


def _code(answer: httpx.Response) -> str:
    try:
        code = answer.json()["code"]
    except (ValueError, KeyError, TypeError):
        return "unknown"
    return str(code)
