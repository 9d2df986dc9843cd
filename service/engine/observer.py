"""What engines report about themselves; metrics listen."""

from typing import Literal, Protocol

EngineKind = Literal["encoder", "decoder", "generator"]
RefusalReason = Literal["queue-full", "deadline"]


class EngineObserver(Protocol):
    """Is notified by engines, from any thread."""

    def batch(self, engine: EngineKind, *, rows: int, bucket: int, seconds: float) -> None:
        """A batch of ``rows`` rows, padded to ``bucket`` rows, took ``seconds``."""

    def refused(self, engine: EngineKind, reason: RefusalReason) -> None:
        """The engine did not take a piece of work."""

    def cancelled(self, engine: EngineKind, steps_saved: int) -> None:
        """Nobody waits for a piece of work any more; ``steps_saved`` of its steps are not made."""

    def failed(self, engine: EngineKind, works: int, error: Exception) -> None:
        """A batch failed with ``error``, and with it ``works`` pieces of work."""

    def degraded(self, steps_saved: int) -> None:
        """Work was taken with ``steps_saved`` steps fewer than its client asked for."""


class NullObserver:
    """An observer that does nothing."""

    def batch(self, engine: EngineKind, *, rows: int, bucket: int, seconds: float) -> None:
        """See :class:`EngineObserver`."""

    def refused(self, engine: EngineKind, reason: RefusalReason) -> None:
        """See :class:`EngineObserver`."""

    def cancelled(self, engine: EngineKind, steps_saved: int) -> None:
        """See :class:`EngineObserver`."""

    def failed(self, engine: EngineKind, works: int, error: Exception) -> None:
        """See :class:`EngineObserver`."""

    def degraded(self, steps_saved: int) -> None:
        """See :class:`EngineObserver`."""
