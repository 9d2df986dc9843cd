"""The faults: how each is injected, and when it is over."""

import os
import signal
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

import httpx

from benchmarks.chaos.access_lines import AccessLines, NamedRequests, access_lines
from benchmarks.chaos.application import (
    MODEL,
    Application,
    config_of,
    picture,
    write_checkpoint,
    write_serve_file,
)
from benchmarks.chaos.checked_load import (
    RAW,
    Answer,
    Answers,
    Ask,
    Pictures,
    Tally,
    either,
    load,
    pictures,
    reconstruct,
    reconstructing,
)
from benchmarks.chaos.nodes import Nodes
from benchmarks.chaos.processes import (
    at_work,
    controller,
    kill_one,
    replicas,
    resident_bytes,
    stopped,
    titles,
)

SEEDS = range(8)
CLIENTS = 4
_LIMIT_SECONDS = 180.0
# Long beside a signal, short beside the deadline.
_LONG_STEPS = 400
_NONE_AT_FIRST = "0 failed, at the first attempt"
_NOBODY = Answer(sent=0.0, ended=0.0, seed=0, status=None, digest=b"")
Over = Callable[[], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Of one fault.

    Attributes:
        fault: its name.
        injected: what was done.
        target: what is wanted.
        met: whether it came to that.
        tally: The tally of the requests from the injection on.
        recovery_seconds: until what was broken was replaced; None where nothing is.
        memory_growth: The growth of all the cluster's processes, as a share of before.
        note: what else is worth saying.
    """

    fault: str
    injected: str
    target: str
    met: bool
    tally: Tally
    recovery_seconds: float | None
    memory_growth: float
    note: str = ""


class Bench:
    """An application under load, and what its answers should be.

    Args:
        application: that is broken.
        before, after: seconds of load before an injection, and after recovery.
        ask: Sends the requests; they reconstruct a picture by default.

    Attributes:
        deployed: How often other weights were deployed.
        requests: Names the load's requests.
        gateways_killed: How many died with what they had inside.
    """

    def __init__(
        self, application: Application, *, before: float, after: float, ask: Ask | None = None
    ) -> None:
        self.application = application
        self._before, self._after = before, after
        self.deployed = 0
        self.upload = picture()
        self.ask = ask or reconstructing(self.upload)
        self.requests = NamedRequests(f"chaos{time.time_ns():x}")
        self.gateways_killed = 0
        self.known: Pictures = pictures(application.url, self.ask, SEEDS)

    @property
    def pid(self) -> int:
        """Whose descendants may be broken."""
        return self.application.pid

    def inject(
        self, inject: Callable[[], Over], *, clients: int = CLIENTS
    ) -> tuple[Answers, float, float, float]:
        """Break something under load.

        Args:
            inject: breaks it, and gives what says that it is over.
            clients: The number of the load's clients.

        Returns:
            The answers, when it was broken, seconds until it was over, growth of memory.

        Raises:
            TimeoutError: it is not over after three minutes.
        """
        with self.load(clients) as answers:
            time.sleep(self._before)
            memory = self.memory()
            begin = time.monotonic()
            over = inject()
            while not over():
                if time.monotonic() - begin > _LIMIT_SECONDS:
                    raise TimeoutError("what was broken was not replaced in three minutes")
                time.sleep(0.1)
            seconds = time.monotonic() - begin
            time.sleep(self._after)
            growth = self.memory() / memory - 1
        return answers, begin, seconds, growth

    def load(self, clients: int) -> AbstractContextManager[Answers]:
        """Requests of so many clients while the block runs."""
        return load(
            self.application.url, self.ask, SEEDS, clients=clients, client=self.requests.client
        )

    def access_lines(self) -> AccessLines:
        """What the log says of the load's requests; a moment after the last of them."""
        return access_lines(self.application.log, self.requests.statuses)

    @property
    def may_miss(self) -> int:
        """How many answers may have no line: a killed gateway's last of each client."""
        return self.gateways_killed * CLIENTS

    def memory(self) -> int:
        """Bytes resident in all processes of the cluster."""
        return resident_bytes([pid for pid, _ in titles(self.pid)])


def kill_replica(bench: Bench, part: str) -> Outcome:
    """SIGKILL of one of two replicas."""
    deployment = part if part == "gateway" else f"{part}-{MODEL}"

    def inject() -> Over:
        dead = kill_one(deployment, bench.pid)
        return lambda: len(set(replicas(deployment, bench.pid)) - {dead}) == 2

    answers, begin, seconds, growth = bench.inject(inject)
    tally = answers.tally(begin, bench.known)
    gateway = part == "gateway"
    bench.gateways_killed += gateway
    return Outcome(
        fault=f"{part} replica killed",
        injected="SIGKILL of the process",
        target="0 failed for a client that repeats"
        if gateway
        else "0 failed, at the first attempt",
        met=_clean(tally) and (gateway or not tally.first_failed),
        tally=tally,
        recovery_seconds=seconds,
        memory_growth=growth,
    )


def kill_controller(bench: Bench) -> Outcome:
    """SIGKILL of Serve's controller."""

    def inject() -> Over:
        (dead,) = controller(bench.pid)
        os.kill(dead, signal.SIGKILL)
        return lambda: any(pid != dead for pid in controller(bench.pid))

    answers, begin, seconds, growth = bench.inject(inject)
    tally = answers.tally(begin, bench.known)
    return Outcome(
        fault="controller killed",
        injected="SIGKILL of the process",
        target=_NONE_AT_FIRST,
        met=_clean(tally) and not tally.first_failed,
        tally=tally,
        recovery_seconds=seconds,
        memory_growth=growth,
    )


def hang_replica(bench: Bench) -> Outcome:
    """A decoder that neither works nor ends."""
    deployment = f"decoder-{MODEL}"

    def inject() -> Over:
        # One that hung before gets its time to finish, and one that starts is not watched yet.
        hung = at_work(deployment, bench.pid)[0]
        os.kill(hung, signal.SIGSTOP)

        def over() -> bool:
            now = at_work(deployment, bench.pid)
            return hung not in now and len(now) == 2

        return over

    answers, begin, seconds, growth = bench.inject(inject)
    tally = answers.tally(begin, bench.known)
    return Outcome(
        fault="decoder replica hangs",
        injected="SIGSTOP of the process",
        target="found, replaced; nothing wrong or lost for a client that repeats",
        met=_clean(tally),
        tally=tally,
        recovery_seconds=seconds,
        memory_growth=growth,
        note="what it held ends with its deadline; Serve gives it up after three checks",
    )


def redeploy(bench: Bench) -> Outcome:
    """Other weights, replica after replica."""
    application = bench.application
    bench.deployed += 1
    other = write_checkpoint(application.folder / f"other{bench.deployed}", seed=bench.deployed)
    old_weights, old_replicas = weights(application.url), everybody(bench.pid)

    def inject() -> Over:
        config = config_of(other, **application.config["settings"])
        write_serve_file(application.folder, config)
        os.kill(bench.pid, signal.SIGHUP)
        return over

    def over() -> bool:
        now = everybody(bench.pid)
        replaced = len(now) == len(old_replicas) and not now & old_replicas
        return replaced and all(
            weights(application.url) not in {None, old_weights} for _ in range(8)
        )

    answers, begin, seconds, growth = bench.inject(inject)
    before = bench.known
    bench.known = pictures(application.url, bench.ask, SEEDS)
    tally = answers.tally(begin, either(before, bench.known))
    changed = all(before[seed] != bench.known[seed] for seed in SEEDS)
    return Outcome(
        fault="rolling redeploy to other weights",
        injected="SIGHUP, with another checkpoint in the file",
        target="0 failed, no picture of two models",
        met=_clean(tally) and not tally.first_failed and changed,
        tally=tally,
        recovery_seconds=seconds,
        memory_growth=growth,
        note="" if changed else "the new weights do not answer",
    )


def weights(url: str) -> str | None:
    """The fingerprint that a gateway names; None if it does not answer."""
    with suppress(httpx.HTTPError):
        answer = httpx.get(f"{url}/v1/models", timeout=30)
        if answer.is_success:
            return str(answer.json()["models"][0]["fingerprint"])
    return None


def everybody(ancestor: int) -> set[int]:
    """Process ids of all replicas of the application but those that hang since an earlier fault."""
    parts = ("gateway", f"encoder-{MODEL}", f"decoder-{MODEL}")
    return {pid for part in parts for pid in replicas(part, ancestor) if not stopped(pid)}


def lose_node(bench: Bench, nodes: Nodes) -> Outcome:
    """One of two machines, with the replicas that are there."""
    me = os.getpid()
    before = everybody(me)

    def inject() -> Over:
        nodes.lose()
        return lambda: len(everybody(me)) == len(before)

    answers, begin, seconds, growth = bench.inject(inject)
    dead = len(before - everybody(me))
    bench.gateways_killed += 1  # of the two one is there, or none
    tally = answers.tally(begin, bench.known)
    return Outcome(
        fault="worker node lost",
        injected=f"SIGKILL of its raylet, {dead} of {len(before)} replicas with it",
        target="0 failed for a client that repeats",
        met=_clean(tally) and dead > 0,
        tally=tally,
        recovery_seconds=seconds,
        memory_growth=growth,
    )


def overload(bench: Bench, *, clients: int = 48, seconds: float = 20.0) -> Outcome:
    """Several times as many clients as are admitted."""
    with bench.load(16) as answers:
        time.sleep(2)
        begin = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
    capacity = answers.tally(begin, bench.known).ok / (end - begin)
    started: list[float] = []

    def inject() -> Over:
        started.append(time.monotonic())
        return lambda: time.monotonic() - started[0] >= seconds

    answers, begin, lasted, growth = bench.inject(inject, clients=clients)
    tally = answers.tally(begin, bench.known)
    during = replace_end(answers, begin, begin + lasted)
    goodput = during.tally(begin, bench.known).ok / lasted
    return Outcome(
        fault="overload",
        injected=f"{clients} clients, 32 admitted at once; capacity measured with 16",
        target="90 % of capacity, the rest 429, memory within 10 %",
        met=_clean(tally) and tally.refused > 0 and goodput >= 0.9 * capacity and growth < 0.1,
        tally=tally,
        recovery_seconds=None,
        memory_growth=growth,
        note=f"{goodput / capacity:.2f} of capacity",
    )


def replace_end(answers: Answers, begin: float, end: float) -> Answers:
    """The answers of an interval."""
    return Answers([a for a in answers.all if begin <= a.ended <= end])


def bad_bodies(bench: Bench) -> Outcome:
    """What strangers send."""
    bodies = {
        "40 MiB": b"\0" * (40 << 20),
        "40 MiB in chunks": None,
        "a PNG of 60,000 x 60,000": _bomb(60_000),
        "half a PNG": bench.upload[: len(bench.upload) // 2],
        "text": b"hello",
        "nothing": b"",
    }
    ends: dict[str, str] = {}

    def inject() -> Over:
        with httpx.Client(base_url=bench.application.url, timeout=60) as client:
            for name, body in bodies.items():
                content: Any = body if body is not None else (b"\0" * (1 << 20) for _ in range(40))
                try:
                    answer = client.post("/v1/tokenize", content=content, headers=RAW)
                    kind = answer.headers.get("Content-Type", "")
                    problem = kind == "application/problem+json"
                    ends[name] = f"{answer.status_code}{'' if problem else ' without a problem'}"
                except httpx.HTTPError as error:
                    ends[name] = type(error).__name__
        return lambda: True

    answers, begin, _, growth = bench.inject(inject)
    tally = answers.tally(begin, bench.known)
    refused = all(end.isdigit() and end.startswith("4") for end in ends.values())
    return Outcome(
        fault="oversize, bomb, truncated, wrong type",
        injected="; ".join(bodies),
        target="4xx that says why, memory within 10 %, others undisturbed",
        met=refused and growth < 0.1 and _clean(tally) and not tally.first_failed,
        tally=tally,
        recovery_seconds=None,
        memory_growth=growth,
        note=", ".join(f"{name}: {end}" for name, end in ends.items()),
    )


def _bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    data = zlib.compress(b"\0" * (1 << 20))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def disconnect(bench: Bench, *, clients: int = 8) -> Outcome:
    """Clients that go away in the middle of long decodes."""
    url = bench.application.url
    with httpx.Client(base_url=url, timeout=60) as client:
        quick = min(_seconds(client, bench.upload, 25) for _ in range(5))
        long = _seconds(client, bench.upload, 1000)

    def give_up(seed: int) -> None:
        with httpx.Client(base_url=url, timeout=long / 4) as client, suppress(httpx.HTTPError):
            reconstruct(client, bench.upload, seed, 1000)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(give_up, range(clients)))
    begin = time.monotonic()
    with bench.load(1) as answers:
        while not any(a.ended - a.sent < 3 * quick for a in answers.all):
            if time.monotonic() - begin > _LIMIT_SECONDS:
                break
            time.sleep(0.01)
        seconds = time.monotonic() - begin
    tally = answers.tally(begin, bench.known)
    return Outcome(
        fault="clients disconnect",
        injected=f"{clients} of them close their sockets in 1000-step decodes",
        target="their rows are freed: quick again long before their work would be done",
        # Four each would have gone on in two decoders, for three quarters of their time at least.
        met=_clean(tally) and seconds < long / 2,
        tally=tally,
        recovery_seconds=seconds,
        memory_growth=0.0,
        note=f"one such decode alone takes {long:.1f} s",
    )


def _seconds(client: httpx.Client, upload: bytes, steps: int) -> float:
    begin = time.monotonic()
    reconstruct(client, upload, 0, steps).raise_for_status()
    return time.monotonic() - begin


def graceful_stop(bench: Bench) -> Outcome:
    """SIGTERM with long decodes inside; the last fault, for nothing runs after it."""
    url = bench.application.url
    answers = Answers()

    def one(seed: int) -> Answers:
        sent = time.monotonic()
        status = None
        with bench.requests.client(url, timeout=120) as client, suppress(httpx.HTTPError):
            status = reconstruct(client, bench.upload, seed, _LONG_STEPS).status_code
        answer = replace(_NOBODY, sent=sent, ended=time.monotonic(), status=status)
        answers.all.append(answer)
        return answers

    with ThreadPoolExecutor(4) as pool:
        begun = [pool.submit(one, seed) for seed in range(4)]
        with httpx.Client(base_url=url, timeout=60) as client:
            # Theirs have been admitted when one that came later is answered.
            reconstruct(client, bench.upload, 9).raise_for_status()
        begin = time.monotonic()
        os.kill(bench.pid, signal.SIGTERM)
        for future in begun:
            future.result()
    bench.application.server.wait(120)
    seconds = time.monotonic() - begin
    try:
        httpx.get(f"{url}/healthz", timeout=2)
        refused = False
    except httpx.HTTPError:
        refused = True
    tally = answers.tally(0.0, {0: frozenset([b""])})
    return Outcome(
        fault="graceful stop",
        injected=f"SIGTERM with four {_LONG_STEPS}-step decodes inside",
        target="they finish, nothing new is taken, the process ends",
        met=tally.ok == 4 and refused,
        tally=replace(tally, longest_gap_seconds=0.0),
        recovery_seconds=seconds,
        memory_growth=0.0,
    )


def _clean(tally: Tally) -> bool:
    return not (tally.failed or tally.lost or tally.wrong) and tally.ok > 0
