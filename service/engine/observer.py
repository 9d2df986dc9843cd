"""What engines tell about themselves; metrics listen."""

from typing import Literal, Protocol

Half = Literal["encode", "decode"]
Refusal = Literal["queue-full", "deadline"]


class EngineObserver(Protocol):
    """Told by engines, from any thread."""

    def batch(self, half: Half, *, rows: int, bucket: int, seconds: float) -> None:
        """A batch of ``rows``, padded to ``bucket``, took so long."""

    def refused(self, half: Half, why: Refusal) -> None:
        """Work was not taken."""

    def cancelled(self, half: Half, steps_saved: int) -> None:
        """Nobody waits any more for work; so many of its steps need not be done."""

    def failed(self, half: Half, works: int, error: Exception) -> None:
        """A batch failed, and with it so many pieces of work."""

    def degraded(self, steps_saved: int) -> None:
        """A decode takes so many steps fewer than it asked for."""


class Silent:
    """An observer that nobody listens to."""

    def batch(self, half: Half, *, rows: int, bucket: int, seconds: float) -> None:
        """See :class:`EngineObserver`."""

    def refused(self, half: Half, why: Refusal) -> None:
        """See :class:`EngineObserver`."""

    def cancelled(self, half: Half, steps_saved: int) -> None:
        """See :class:`EngineObserver`."""

    def failed(self, half: Half, works: int, error: Exception) -> None:
        """See :class:`EngineObserver`."""

    def degraded(self, steps_saved: int) -> None:
        """See :class:`EngineObserver`."""
