"""API keys: who may ask, how often, and how much at once.

A server never holds a key, only its SHA-256; keys are random and long (``flowmo keys new``), so
nothing slower is needed. A file of them (TOML) is read again when it changes:

    [team-a]
    sha256 = "64 hex digits"
    rate = 20           # requests a second; optional
    burst = 40          # at once, when it has been quiet; twice the rate by default
    concurrency = 8     # requests at a time; optional
    pictures = 5        # pictures encoded or decoded a second; optional
    steps = 100         # steps of decodes a second; optional
    weight = 2          # its share of a busy device beside other keys'; 1 by default
"""

import hashlib
import hmac
import logging
import math
import re
import secrets
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from flowmo.model.errors import FlowMoError
from flowmo.service.errors import RateLimitedError, UnauthorizedError

logger = logging.getLogger(__name__)

KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PREFIX = "fmk_"
_RANDOM_BYTES = 32
_LOOK_SECONDS = 1.0
# Whoever waits as long as was said must not be sent away for a bit in the last place.
_ROUNDING = 1e-6


class KeysError(FlowMoError):
    """Keys cannot be read."""


class KeyEntry(BaseModel):
    """One key, as a file has it.

    Attributes:
        sha256: The SHA-256 of the key, 64 hex digits.
        rate: The requests a second that the key may send; None for any number.
        burst: The requests that it may send at once when it has been quiet.
        concurrency: The requests that it may have inside at a time; None for any number.
        pictures: The pictures a second that may be computed for it; None for any number.
        steps: The steps of decodes a second that may be computed for it; None for any number.
        weight: Its share of a busy device beside other keys'.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
    rate: float | None = Field(default=None, gt=0)
    burst: float | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)
    pictures: float | None = Field(default=None, gt=0)
    steps: float | None = Field(default=None, gt=0)
    weight: float = Field(default=1.0, ge=0.01, le=100.0)


_Entries = TypeAdapter(dict[Annotated[str, StringConstraints(pattern=KEY_NAME)], KeyEntry])


def new_key() -> str:
    """Make a fresh key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(key: str) -> str:
    """The SHA-256 of a key, 64 hex digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_file(path: Path) -> dict[str, KeyEntry]:
    """Read keys, by name, from a TOML file.

    Raises:
        KeysError: The file cannot be read, or holds something else.
    """
    try:
        return _Entries.validate_python(tomllib.loads(path.read_text()))
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeysError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        raise KeysError(f"{path}: {_told(error)}") from None


def read_text(text: str) -> dict[str, KeyEntry]:
    """Read keys, by name and without limits, from ``NAME:SHA256,NAME:SHA256``.

    Raises:
        KeysError: The text says something else.
    """
    pairs = [item.strip().partition(":") for item in text.split(",") if item.strip()]
    try:
        return _Entries.validate_python({name: {"sha256": digest} for name, _, digest in pairs})
    except ValidationError as error:
        raise KeysError(f"expected NAME:SHA256,NAME:SHA256: {_told(error)}") from None


def _told(error: ValidationError) -> str:
    # Without the input: somebody may have put the key itself where its digest belongs.
    return "; ".join(
        f"{'.'.join(map(str, item['loc'][:1]))}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)[:8]
    )


@dataclass(eq=False, slots=True)
class Allowance:
    """A token bucket; what costs more than it holds is begun when it is full, and paid for later.

    Attributes:
        rate: What comes in a second.
        most: What it holds; it is full at first.
        at: The time of ``level``.
    """

    rate: float
    most: float
    at: float
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.most

    def seconds_until(self, cost: float, now: float) -> float:
        """The seconds until something of this cost may be begun; 0 when it may now."""
        self.level = min(self.most, self.level + (now - self.at) * self.rate)
        self.at = now
        missing = min(cost, self.most) - self.level
        return missing / self.rate if missing > _ROUNDING else 0.0


@dataclass(eq=False, slots=True)
class Usage:
    """What one key has used: its allowances, and the requests that are inside.

    Attributes:
        entry: The key's limits.
        clock: Gives the time, in seconds.
        inside: The number of requests that are inside.
        allowances: What is left of each rate that the key has.
    """

    entry: KeyEntry
    clock: Callable[[], float] = time.monotonic
    inside: int = 0
    allowances: dict[str, Allowance] = field(init=False)

    def __post_init__(self) -> None:
        now, entry = self.clock(), self.entry
        rates = {"requests": entry.rate, "pictures": entry.pictures, "steps": entry.steps}
        most = {"requests": entry.burst}
        self.allowances = {
            what: Allowance(rate, most.get(what) or max(1.0, 2 * rate), now)
            for what, rate in rates.items()
            if rate is not None
        }

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Let a request in while the block runs, wherever that is counted.

        Raises:
            RateLimitedError: The request is one too many, now.
        """
        self.take()
        try:
            yield
        finally:
            self.leave()

    async def spend(self, *, pictures: int = 1, steps: int = 0) -> None:
        """Count a picture that is about to be computed, wherever that is counted.

        Args:
            pictures: See :meth:`compute`.
            steps: See :meth:`compute`.

        Raises:
            RateLimitedError: The picture is one too many, now; after ``retry_after`` it is not.
        """
        self.compute(pictures=pictures, steps=steps)

    def take(self) -> None:
        """Let a request in, until :meth:`leave`.

        Raises:
            RateLimitedError: The request is one too many, now.
        """
        limits = self.entry
        if limits.concurrency is not None and self.inside >= limits.concurrency:
            raise RateLimitedError(
                f"this key has {self.inside} requests inside, at most {limits.concurrency} may be"
            )
        self._spend({"requests": 1})
        self.inside += 1

    def leave(self) -> None:
        """Note that a request has been answered."""
        self.inside -= 1

    def compute(self, *, pictures: int = 1, steps: int = 0) -> None:
        """Count a picture that is about to be computed.

        Args:
            pictures: The squares of the model's size that it has: of many tiles, as many.
            steps: The steps of all their decodes; 0 for an encoding.

        Raises:
            RateLimitedError: The picture is one too many, now; after ``retry_after`` it is not.
        """
        self._spend({"pictures": pictures, "steps": steps})

    def _spend(self, costs: Mapping[str, float]) -> None:
        now = self.clock()
        used = [(self.allowances[w], w, c) for w, c in costs.items() if c and w in self.allowances]
        seconds, what, rate = max(
            ((a.seconds_until(cost, now), what, a.rate) for a, what, cost in used),
            default=(0.0, "", 0.0),
        )
        if seconds:
            raise limited(what, rate, seconds)
        for allowance, _, cost in used:
            allowance.level -= cost


def limited(what: str, rate: float, seconds: float) -> RateLimitedError:
    """What a key is told that has used up a rate.

    Args:
        what: The name of the rate.
        rate: What comes in a second.
        seconds: Until there is enough of it.
    """
    verb = "send" if what == "requests" else "have computed"
    return RateLimitedError(
        f"this key may {verb} {rate:g} {what} a second", retry_after=max(1, math.ceil(seconds))
    )


def usage_id(name: str, entry: KeyEntry) -> bytes:
    """What the use of a key is found by; with other limits it is counted anew.

    Args:
        name: The key's name.
        entry: Its limits.

    Returns:
        16 bytes.
    """
    return hashlib.sha256(f"{name}\n{entry.model_dump_json()}".encode()).digest()[:16]


class Keyring:
    """All keys of a server; where there are none, anybody may ask.

    Args:
        fixed: The keys that never change, by name.
        path: A file of further keys, read again when it changes.
        usage: Makes what counts the use of a key, given its name and its limits; each process
            counts for itself without it.

    Raises:
        KeysError: The file cannot be read.
    """

    def __init__(
        self,
        fixed: Mapping[str, KeyEntry],
        path: Path | None = None,
        usage: Callable[[str, KeyEntry], Usage] | None = None,
    ) -> None:
        self._fixed, self._path = dict(fixed), path
        self._usage = usage or (lambda _, entry: Usage(entry))
        self._users: dict[str, Usage] = {}
        self._stamp: tuple[int, ...] = ()
        self._looked = -math.inf
        if path is not None:
            self._stamp = _stamp(path)
        self._set(self._fixed | (read_file(path) if path is not None else {}))

    @property
    def guards(self) -> bool:
        """Whether requests need a key."""
        return bool(self._fixed) or self._path is not None

    @asynccontextmanager
    async def enter(self, presented: str | None) -> AsyncIterator[str | None]:
        """Let a request in while the block runs.

        Args:
            presented: The key that came with the request; None without one.

        Yields:
            The key's name; None where no key is needed.

        Raises:
            UnauthorizedError: The key is none of those known.
            RateLimitedError: The request is one too many, now.
        """
        if not self.guards:
            yield None
            return
        self._look()
        name = self.name_of(presented)
        async with self._users[name].held():
            yield name

    def name_of(self, presented: str | None) -> str:
        """The name of a key.

        Raises:
            UnauthorizedError: The key is none of those known.
        """
        if not presented:
            raise UnauthorizedError("a key is needed, and none came")
        digest = digest_of(presented)
        found = None
        # All of them, whichever it is: how long it takes says nothing.
        for name, usage in self._users.items():
            if hmac.compare_digest(usage.entry.sha256.lower(), digest):
                found = name
        if found is None:
            raise UnauthorizedError("the key that came is not known here, or no more")
        return found

    def usage_of(self, name: str) -> Usage:
        """What a key that is inside has used, and its limits."""
        return self._users[name]

    def reload(self) -> None:
        """Read the file again; one that cannot be read changes nothing, and the log says why."""
        if self._path is None:
            return
        try:
            stamp = _stamp(self._path)
            self._set(self._fixed | read_file(self._path))
        except KeysError as error:
            logger.error("the keys stay as they were: %s", error)  # noqa: TRY400
            return
        self._stamp = stamp
        logger.info("%d keys", len(self._users))

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if (stamp := _stamp(self._path)) != self._stamp:
            self._stamp = stamp
            self.reload()

    def _set(self, entries: Mapping[str, KeyEntry]) -> None:
        # A key that stays as it is goes on with what it has used.
        self._users = {
            name: known
            if (known := self._users.get(name)) is not None and known.entry == entry
            else self._usage(name, entry)
            for name, entry in entries.items()
        }


def _stamp(path: Path) -> tuple[int, ...]:
    """A value that changes when the file does, or a link to it (Kubernetes exchanges links)."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def is_well_formed(name: str) -> bool:
    """Whether a key may have this name."""
    return re.match(KEY_NAME, name) is not None
