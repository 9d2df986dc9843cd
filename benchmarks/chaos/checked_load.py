"""A steady load of clients that check every answer."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx

RAW = {"Content-Type": "image/png"}
STEPS = 25
# Each is a call of its own: some are inside whichever replica is killed.
IMAGES = 8
_RETRIES = 4
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """One request.

    Attributes:
        sent, ended: times of the monotonic clock.
        seed: The seed of the picture's noise.
        status: The HTTP status of the last attempt; None where the connection broke.
        digest: The digest of the answer's content.
        first_failed: how the first attempt ended, if otherwise than with 200 or 429.
    """

    sent: float
    ended: float
    seed: int
    status: int | None
    digest: bytes
    first_failed: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What became of the requests of a time.

    Attributes:
        sent: how many.
        ok: answered with the right picture.
        refused: answered that they should come later (429).
        first_failed: whose first attempt failed.
        how: those, by status and problem code, or the error of the connection.
        failed: that an answer was given to, another than 200 and 429, by the last attempt too.
        lost: without an answer, by the last attempt too.
        wrong: answered with another picture than the seed's.
        longest_gap_seconds: without any right answer.
    """

    sent: int
    ok: int
    refused: int
    first_failed: int
    how: dict[str, int]
    failed: int
    lost: int
    wrong: int
    longest_gap_seconds: float


Pictures = Mapping[int, frozenset[bytes]]
"""Digests of the answers that are right, by seed."""

Ask = Callable[[httpx.Client, int], httpx.Response]
"""Sends the request of a seed; raises ``httpx.HTTPError`` where no answer came."""


@dataclass(slots=True)
class Answers:
    """Those so far; threads add to it.

    Attributes:
        all: in the order of their ends.
        ended: when the load was over; None while it is not.
    """

    all: list[Answer] = field(default_factory=list)
    ended: float | None = None

    def tally(self, begin: float, known: Pictures) -> Tally:
        """Of the requests that ended after a time of the monotonic clock.

        Args:
            begin: that time.
            known: right pictures.
        """
        late = sorted((a for a in self.all if a.ended >= begin), key=lambda a: a.ended)
        good = [a for a in late if a.status == 200 and a.digest in known[a.seed]]
        # Silence until the end of the load is a gap, too.
        last = self.ended or max([begin, *(answer.ended for answer in late)])
        ends = [begin, *(answer.ended for answer in good), last]
        return Tally(
            sent=len(late),
            ok=len(good),
            refused=sum(answer.status == 429 for answer in late),
            first_failed=sum(bool(answer.first_failed) for answer in late),
            how=dict(Counter(a.first_failed for a in late if a.first_failed)),
            failed=sum(answer.status not in (200, 429, None) for answer in late),
            lost=sum(answer.status is None for answer in late),
            wrong=sum(answer.status == 200 for answer in late) - len(good),
            longest_gap_seconds=max((b - a for a, b in pairwise(ends)), default=0.0),
        )


def pictures(url: str, ask: Ask, seeds: range) -> Pictures:
    """The answer of each seed, as a service without a fault gives it."""
    with httpx.Client(base_url=url, timeout=120) as client:
        return {seed: frozenset([_digest(ask(client, seed).raise_for_status())]) for seed in seeds}


def either(one: Pictures, other: Pictures) -> Pictures:
    """Right is what is right in one or the other."""
    return {seed: one[seed] | other[seed] for seed in one}


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60)


@contextmanager
def load(
    url: str,
    ask: Ask,
    seeds: range,
    *,
    clients: int,
    client: Callable[[str], httpx.Client] = _client,
) -> Iterator[Answers]:
    """Requests without a pause, of several clients, while the block runs.

    A client repeats an attempt that failed, as ``flowmo.Client`` does, after half a second, and
    comes again after a second where the answer says so (429).

    Args:
        url: The address of the service.
        ask: sends each request.
        seeds: one after the other.
        clients: how many.
        client: Makes the client of the address that each has.
    """
    answers = Answers()
    done = threading.Event()

    def work(number: int) -> None:
        turn = number
        with client(url) as own:
            while not done.is_set():
                answer = _with_retries(own, ask, seeds[turn % len(seeds)])
                answers.all.append(answer)
                turn += 1
                if answer.status == 429:
                    done.wait(1.0)

    with ThreadPoolExecutor(clients) as pool:
        workers = [pool.submit(work, number) for number in range(clients)]
        try:
            yield answers
        finally:
            answers.ended = time.monotonic()
            done.set()
        for worker in workers:
            worker.result()


def reconstruct(
    client: httpx.Client, upload: bytes, seed: int, steps: int = STEPS
) -> httpx.Response:
    """One picture, encoded and decoded.

    Raises:
        httpx.HTTPError: no answer came.
    """
    params = {"seed": seed, "steps": steps}
    return client.post("/v1/reconstruct", content=upload, headers=RAW, params=params)


def reconstructing(upload: bytes) -> Ask:
    """Requests that reconstruct a picture."""
    return lambda client, seed: reconstruct(client, upload, seed)


def generate(client: httpx.Client, seed: int) -> httpx.Response:
    """The tokens of some images, which a prior generates: an :data:`Ask`.

    Raises:
        httpx.HTTPError: no answer came.
    """
    params = {"class": 1, "seed": seed, "count": IMAGES}
    return client.post("/v1/generate", params=params)


def _with_retries(client: httpx.Client, ask: Ask, seed: int) -> Answer:
    sent = time.monotonic()
    first_failed = ""
    status, digest = None, b""
    for attempt in range(1 + _RETRIES):
        try:
            response = ask(client, seed)
            status, digest = response.status_code, _digest(response)
            end = f"{status} {_code(response)}".strip()
        except httpx.HTTPError as error:
            status, end = None, type(error).__name__
        if status in (200, 429):
            break
        first_failed = first_failed or (end if attempt == 0 else "")
        time.sleep(_PAUSE_SECONDS)
    return Answer(sent, time.monotonic(), seed, status, digest, first_failed)


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return response.text[:60] if response.status_code != 200 else ""


def _digest(response: httpx.Response) -> bytes:
    return hashlib.sha256(response.content).digest()
