"""The admission limiter: how many requests are inside at once, whatever they are doing."""

from collections.abc import Iterator
from contextlib import contextmanager

from flowmo.service.errors import QueueFullError

DEFAULT_MAX_CONCURRENT_REQUESTS = 64


class AdmissionLimiter:
    """Admits a bounded number of requests, and of bytes of their bodies, at once.

    Used from the event loop's thread only.

    Args:
        max_requests: How many requests may be inside at once.
        max_bytes: How many bytes the bodies of these requests may have together.

    Attributes:
        capacity: ``max_requests`` as given.
        capacity_bytes: ``max_bytes`` as given.
        admitted: How many requests are inside now.
        admitted_bytes: How many bytes their bodies may have together.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.capacity, self.capacity_bytes = max_requests, max_bytes
        self.admitted = 0
        self.admitted_bytes = 0

    @contextmanager
    def admit(self, size: int, *, backlog_seconds: float) -> Iterator[None]:
        """Admit one request for as long as the block runs.

        The block begins before the request's body is read, and ends when it has been answered.

        Args:
            size: The most bytes that the request's body may have.
            backlog_seconds: The time that the work inside will take, which a refused client is
                asked to wait.

        Raises:
            QueueFullError: As many requests, or bytes, as there may be are inside already.
        """
        full = self.admitted >= self.capacity
        # One request may always come in, however large; the body limit bounds it.
        if full or (self.admitted and self.admitted_bytes + size > self.capacity_bytes):
            inside = (
                f"{self.admitted} requests are inside, at most {self.capacity} may be"
                if full
                else f"bodies of {self.admitted_bytes:,} bytes are inside, "
                f"at most {self.capacity_bytes:,} may be"
            )
            raise QueueFullError(
                f"{inside}, with about {backlog_seconds:.1f} s of work",
                retry_after=max(1, round(backlog_seconds)),
            )
        self.admitted += 1
        self.admitted_bytes += size
        try:
            yield
        finally:
            self.admitted -= 1
            self.admitted_bytes -= size
