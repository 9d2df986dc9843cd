"""Whether a service wrote its access line for each request that it answered.

A load names its requests by an id of their own, which the line of a request repeats
(docs/logs.md). What a killed gateway had inside has no line of that gateway.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

_HEADER = "X-Request-ID"
_LOGGER = "flowmo.access"


class NamedRequests:
    """Gives requests their ids and remembers the status that each was answered with.

    Args:
        load: Of the load, which sets its ids apart from those of others.
    """

    def __init__(self, load: str) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._sent = 0
        self.statuses: dict[str, int] = {}

    def client(self, url: str, *, timeout: float = 60.0) -> httpx.Client:
        """A client whose requests are named; threads have one each."""
        hooks: dict[str, list[Callable[..., None]]]
        hooks = {"request": [self._name], "response": [self._remember]}
        return httpx.Client(base_url=url, timeout=timeout, event_hooks=hooks)

    def _name(self, request: httpx.Request) -> None:
        with self._lock:
            self._sent += 1
            request.headers[_HEADER] = f"{self._load}-{self._sent}"

    def _remember(self, response: httpx.Response) -> None:
        self.statuses[response.request.headers[_HEADER]] = response.status_code


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessLines:
    """What a log says of a load's requests.

    Attributes:
        lines: All lines of the log.
        not_json: Of those, how many are no JSON object.
        answered: Requests of the load that were answered.
        found: Of those, how many have one line with the status that the client saw.
        missing: How many have none.
        twice: How many have several.
        contradicted: How many have one with another status.
    """

    lines: int
    not_json: int
    answered: int
    found: int
    missing: int
    twice: int
    contradicted: int

    def complete(self, *, may_miss: int = 0) -> bool:
        """Whether every line is JSON and every answer has its one line.

        Args:
            may_miss: How many may have none: a killed process writes nothing any more.
        """
        return not (self.not_json or self.twice or self.contradicted) and self.missing <= may_miss


def access_lines(log: Path, answered: Mapping[str, int]) -> AccessLines:
    """Read a log of JSON lines.

    Args:
        log: The file; it is read to its end.
        answered: Statuses by request id.
    """
    count, not_json = 0, 0
    seen: Counter[str] = Counter()
    agreed: set[str] = set()
    with log.open(encoding="utf-8", errors="replace") as lines:
        for count, line in enumerate(lines, start=1):  # noqa: B007  the last one is how many
            try:
                entry = json.loads(line)
                name = str(entry["request_id"]) if entry["logger"] == _LOGGER else ""
            except (ValueError, TypeError):
                not_json += 1
                continue
            except KeyError:
                continue
            if name in answered:
                seen[name] += 1
                if entry["status"] == answered[name]:
                    agreed.add(name)
    return AccessLines(
        lines=count,
        not_json=not_json,
        answered=len(answered),
        found=sum(seen[name] == 1 for name in agreed),
        missing=len(answered) - len(seen),
        twice=sum(times > 1 for times in seen.values()),
        contradicted=sum(seen[name] == 1 for name in seen.keys() - agreed),
    )
