"""Places for requests: how many may be inside at once, whatever they are doing."""

from collections.abc import Iterator
from contextlib import contextmanager

from flowmo.service.errors import QueueFullError

DEFAULT_MAX_CONCURRENT_REQUESTS = 64


class Places:
    """A bounded number of places, in requests and in bytes of their bodies.

    Used from the event loop's thread only.

    Args:
        requests: inside at once.
        max_bytes: of bodies inside at once.
    """

    def __init__(self, requests: int, max_bytes: int) -> None:
        self.capacity, self.max_bytes = requests, max_bytes
        self.taken = 0
        self.taken_bytes = 0

    @contextmanager
    def take(self, size: int, *, backlog_seconds: float) -> Iterator[None]:
        """A place for one request, from before its body is read until it is answered.

        Args:
            size: bytes its body may have.
            backlog_seconds: of work that is inside, for the time to come back at.

        Raises:
            QueueFullError: there is no place.
        """
        full = self.taken >= self.capacity
        # One request may always come in, however large; the body limit bounds it.
        if full or (self.taken and self.taken_bytes + size > self.max_bytes):
            inside = (
                f"all {self.capacity} places are taken"
                if full
                else f"bodies of {self.taken_bytes:,} bytes are inside, "
                f"at most {self.max_bytes:,} may be"
            )
            raise QueueFullError(
                f"{inside}, with about {backlog_seconds:.1f} s of work",
                retry_after=max(1, round(backlog_seconds)),
            )
        self.taken += 1
        self.taken_bytes += size
        try:
            yield
        finally:
            self.taken -= 1
            self.taken_bytes -= size
