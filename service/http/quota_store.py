"""What API keys have used, counted together by gateways of any number of machines, in a Redis.

Each look-up is one script, which Redis runs whole, by its own clock: so gateways neither race nor
need clocks that agree. A store that does not answer stops nobody: see :class:`QuotaStore`.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flowmo.model.errors import ConfigError
from flowmo.service.errors import RateLimitedError
from flowmo.service.http.keys import KeyEntry, Usage, limited, usage_id
from flowmo.service.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

PREFIX = "flowmo:usage"
# The longest that a request waits for the store, and how long one that was silent is left alone.
ANSWER_SECONDS = 0.25
AWAY_SECONDS = 5.0

# KEYS: the hash of what is left of each rate (its level and when that was), and the sorted set of
# the requests inside by the time until which they count.
# ARGV: the most that may be inside (0 for any number), the request's name, the seconds that it may
# be inside, and for each rate its name, what comes in a second, what it holds, what is spent.
# Nothing is spent unless everything can be. The answer is empty, or what is used up and until when.
_SPEND = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local most_inside, place, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if most_inside > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  local inside = redis.call('ZCARD', KEYS[2])
  if inside >= most_inside then return {'concurrency', tostring(inside)} end
end
local levels, worst, wait, full = {}, nil, 0, 1
for i = 4, #ARGV, 4 do
  local what, rate = ARGV[i], tonumber(ARGV[i + 1])
  local most, cost = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local known = redis.call('HMGET', KEYS[1], what, what .. ':at')
  local level = tonumber(known[1] or most)
  local passed = math.max(0, now - tonumber(known[2] or now))
  level = math.min(most, level + passed * rate)
  local missing = math.min(cost, most) - level
  if missing > 1e-6 and missing / rate > wait then worst, wait = what, missing / rate end
  levels[#levels + 1] = {what, level - cost}
  full = math.max(full, (most - level + cost) / rate)
end
if worst then return {worst, string.format('%.17g', wait)} end
for _, one in ipairs(levels) do
  redis.call('HSET', KEYS[1], one[1], string.format('%.17g', one[2]),
             one[1] .. ':at', string.format('%.17g', now))
end
if #levels > 0 then
  local left = redis.call('TTL', KEYS[1])
  redis.call('EXPIRE', KEYS[1], math.max(left, math.ceil(full) + 1))
end
if most_inside > 0 then
  redis.call('ZADD', KEYS[2], string.format('%.17g', now + lease), place)
  redis.call('EXPIRE', KEYS[2], math.ceil(lease) + 1)
end
return {}
"""


class QuotaStore:
    """A Redis in which gateways count together what keys have used.

    Guaranteed to the operator: a request waits for the store 0.25 s at most, and when it does not
    answer no request is refused for that. The gateway then counts alone, as without a store, so
    that each has the whole rate; it asks again 5 s later. What was let in meanwhile is not counted
    afterwards.

    It is a context manager that ends the connections.

    Args:
        url: ``redis://HOST:PORT/DATABASE``, ``rediss://…`` with TLS, or ``unix:///PATH``.
        password_file: A file with the password, where the URL has none of its own.
        inside_seconds: The longest time that a request can be inside. The place of one whose
            gateway has died is free after it.
        alone: Called each time that something is counted without the store.

    Raises:
        ConfigError: The extra ``redis`` is not installed, or the URL or the file cannot be used.
    """

    def __init__(
        self,
        url: str,
        password_file: Path | None,
        *,
        inside_seconds: float,
        alone: Callable[[], None],
    ) -> None:
        self._redis = _connect(url, password_file)
        self._spend = self._redis.register_script(_SPEND)
        self._inside_seconds, self._alone = inside_seconds, alone
        self._away_until = 0.0
        self._leaving: set[asyncio.Task[None]] = set()

    def usage(self, name: str, entry: KeyEntry) -> "StoredUsage":
        """What counts the use of a key, given its name and its limits."""
        return StoredUsage(entry, self, usage_id(name, entry).hex())

    async def spend(
        self, key: str, usage: Usage, costs: Mapping[str, float], place: str | None = None
    ) -> bool:
        """Spend what a request or a picture costs.

        Args:
            key: Under which the key's use is kept.
            usage: The key's limits and allowances.
            costs: What is spent of each rate, by its name.
            place: The name of a request that is to be inside from now on; None for none.

        Returns:
            Whether the store has counted it.

        Raises:
            RateLimitedError: It is one too many, now.
        """
        most_inside = (usage.entry.concurrency or 0) if place is not None else 0
        rates: list[str | float] = []
        for what, cost in costs.items():
            if cost and (allowance := usage.allowances.get(what)) is not None:
                rates += [what, allowance.rate, allowance.most, cost]
        if not (rates or most_inside):
            return True  # without limits nothing is counted
        if time.monotonic() < self._away_until:
            self._alone()
            return False
        # The same hash slot for both, where Redis is a cluster.
        keys = [f"{PREFIX}:{{{key}}}:{part}" for part in ("rates", "inside")]
        arguments = [most_inside, place or "", self._inside_seconds, *rates]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._spend(keys=keys, args=arguments)
        except _errors() as error:
            self._lost(error)
            if place is not None:
                self.leave(key, place)  # it may have been counted without an answer
            return False
        except asyncio.CancelledError:
            if place is not None:
                self.leave(key, place)
            raise
        if not answer:
            if self._away_until:
                self._away_until = 0.0
                logger.info("the quota store answers again")
            return True
        what, number = (one.decode() for one in answer)
        if what == "concurrency":
            raise RateLimitedError(
                f"this key has {number} requests inside, at most {most_inside} may be"
            )
        raise limited(what, usage.allowances[what].rate, float(number))

    def leave(self, key: str, place: str) -> None:
        """Let the store know, soon, that a request has been answered."""

        async def remove() -> None:
            with contextlib.suppress(*_errors()):  # then its place is free when its time is over
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._redis.zrem(f"{PREFIX}:{{{key}}}:inside", place)

        task = asyncio.create_task(remove())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._leaving:
            await asyncio.wait(self._leaving)
        await self._redis.aclose()

    def _lost(self, error: BaseException) -> None:
        self._alone()
        now = time.monotonic()
        if now >= self._away_until:  # and not for each of those that asked at the same time
            text = "the quota store does not answer, and this gateway counts alone for %g s: %s: %s"
            logger.error(text, AWAY_SECONDS, type(error).__name__, error)
        self._away_until = now + AWAY_SECONDS


class StoredUsage(Usage):
    """What one key has used at all gateways that share a store.

    Args:
        entry: The key's limits.
        store: In which it is counted.
        key: Under which it is kept there.
    """

    def __init__(self, entry: KeyEntry, store: QuotaStore, key: str) -> None:
        super().__init__(entry)
        self._store, self._key = store, key

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """See :meth:`Usage.held`."""
        place = uuid.uuid4().hex
        if not await self._store.spend(self._key, self, {"requests": 1}, place):
            async with super().held():
                yield
            return
        try:
            yield
        finally:
            if self.entry.concurrency is not None:
                self._store.leave(self._key, place)

    async def spend(self, *, pictures: int = 1, steps: int = 0) -> None:
        """See :meth:`Usage.spend`."""
        costs = {"pictures": pictures, "steps": steps}
        if not await self._store.spend(self._key, self, costs):
            await super().spend(pictures=pictures, steps=steps)


def quota_store(settings: Settings, alone: Callable[[], None]) -> QuotaStore | None:
    """Where keys' use is counted together with other gateways, if the settings name a place.

    Args:
        settings: The operator's.
        alone: Called each time that something is counted without the store.

    Raises:
        ConfigError: The place cannot be used.
    """
    if not settings.quota_store:
        return None
    # A body comes, is computed, and the answer is read.
    inside = settings.body_seconds + settings.max_deadline_seconds + settings.send_seconds
    return QuotaStore(
        settings.quota_store,
        settings.quota_store_password_file,
        inside_seconds=inside,
        alone=alone,
    )


def _connect(url: str, password_file: Path | None) -> "Redis":
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise ConfigError(
            "quota_store is set, and the client of Redis is not installed; install it with "
            "pip install 'flowmo-serve[redis]', or unset it"
        ) from None
    password = None
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{password_file} cannot be read: {error.strerror}") from None
    try:
        return Redis.from_url(
            url,
            password=password,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 1),  # once, for a connection that has ended meanwhile
        )
    except ValueError as error:
        # Without the URL, which may hold a password.
        raise ConfigError(
            f"quota_store is no URL of a Redis, such as redis://flowmo-redis:6379/1: {error}"
        ) from None


def _errors() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return (RedisError, OSError, TimeoutError)
