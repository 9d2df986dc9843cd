"""The admission limiter: how many requests are inside at once, whatever they are doing."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowmo.service.errors import QueueFullError

DEFAULT_MAX_CONCURRENT_REQUESTS = 64


class Admission:
    """One request that is inside.

    Attributes:
        size: The bytes of the request's body that have arrived.
        leaves_by: When the request leaves at the latest, if it waits for its client; infinite while
            it waits for the engines.
    """

    def __init__(self, limiter: "AdmissionLimiter", *, leaves_by: float) -> None:
        self._limiter = limiter
        self.leaves_by = leaves_by
        self.size = 0

    def arrived(self, size: int) -> None:
        """Reserve room for a piece of the body, before it is kept.

        Raises:
            QueueFullError: The bodies inside have as many bytes as they may.
        """
        self._limiter.reserve(self, size)

    def complete(self) -> None:
        """Note that the whole body has arrived: from now on the request waits for the engines."""
        self.leaves_by = math.inf

    @contextmanager
    def sending(self, seconds: float) -> Iterator[None]:
        """Note that the request waits for its client, while the block runs.

        Args:
            seconds: The longest time that the client may take.
        """
        self.leaves_by = self._limiter.clock() + seconds
        try:
            yield
        finally:
            self.leaves_by = math.inf


class AdmissionLimiter:
    """Admits a bounded number of requests, and of bytes of their bodies, at once.

    Bytes are reserved as they arrive: whoever announces many and sends none takes nobody's room.

    Used from the event loop's thread only.

    Args:
        max_requests: How many requests may be inside at once.
        max_bytes: How many bytes the bodies of these requests may have together.
        clock: Gives the time, in seconds.

    Attributes:
        capacity: ``max_requests`` as given.
        capacity_bytes: ``max_bytes`` as given.
        clock: ``clock`` as given.
        admitted_bytes: How many bytes of their bodies are inside now.
    """

    def __init__(
        self, max_requests: int, max_bytes: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity, self.capacity_bytes = max_requests, max_bytes
        self.admitted_bytes = 0
        self.clock = clock
        self._inside: set[Admission] = set()
        self._backlog_seconds = 0.0

    @property
    def admitted(self) -> int:
        """How many requests are inside now."""
        return len(self._inside)

    @contextmanager
    def admit(
        self, declared: int, *, backlog_seconds: float, body_seconds: float
    ) -> Iterator[Admission]:
        """Admit one request for as long as the block runs.

        The block begins before the request's body is read, and ends when it has been answered.

        Args:
            declared: The bytes that the request says its body has; 0 if it does not say.
            backlog_seconds: The time that the work inside will take.
            body_seconds: The longest time for the body to arrive.

        Yields:
            What the request has inside.

        Raises:
            QueueFullError: As many requests, or bytes, as there may be are inside already.
        """
        self._backlog_seconds = backlog_seconds
        if self.admitted >= self.capacity:
            raise self._full(f"{self.admitted} requests are inside, at most {self.capacity} may be")
        # One request may always come in, however large; the body limit bounds it.
        if self._inside and self.admitted_bytes + declared > self.capacity_bytes:
            raise self._full(self._bytes_inside())
        admission = Admission(self, leaves_by=self.clock() + body_seconds)
        self._inside.add(admission)
        try:
            yield admission
        finally:
            self._inside.remove(admission)
            self.admitted_bytes -= admission.size

    def reserve(self, admission: Admission, size: int) -> None:
        """Reserve room for a piece of a body; see :meth:`Admission.arrived`.

        Raises:
            QueueFullError: The bodies inside have as many bytes as they may.
        """
        if admission not in self._inside:
            return  # it was refused, and what still comes is thrown away
        if self.admitted > 1 and self.admitted_bytes + size > self.capacity_bytes:
            raise self._full(self._bytes_inside())
        admission.size += size
        self.admitted_bytes += size

    def _bytes_inside(self) -> str:
        return (
            f"bodies of {self.admitted_bytes:,} bytes are inside, "
            f"at most {self.capacity_bytes:,} may be"
        )

    def _full(self, inside: str) -> QueueFullError:
        """The refusal, with the time until the first of those inside will have left.

        One that waits for the engines leaves when they have done their work; one that waits for its
        client, when the client must have sent or taken everything.
        """
        now, backlog = self.clock(), self._backlog_seconds
        seconds = min(
            backlog if math.isinf(one.leaves_by) else max(0.0, one.leaves_by - now)
            for one in self._inside
        )
        return QueueFullError(
            f"{inside}, with about {backlog:.1f} s of work", retry_after=max(1, math.ceil(seconds))
        )
