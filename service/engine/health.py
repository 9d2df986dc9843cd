"""Whether a device is worth giving work to, by what its batches ended with."""

import logging
import threading

from flowmo.service.engine.failures import FailureKind, kind_of
from flowmo.service.engine.observer import EngineKind

logger = logging.getLogger(__name__)

# Batches of one engine that fail one after the other; a device that does that much is not alive.
MAX_CONSECUTIVE_FAILURES = 8


class DeviceHealth:
    """How the batches of a device have ended lately; used from any thread.

    Guaranteed to whoever asks whether the device is alive: after an error that CUDA calls sticky it
    never is again, and after :data:`MAX_CONSECUTIVE_FAILURES` batches of one engine have failed in
    a row it is not until a batch of that engine works. The engines count apart: an encoder that
    works says nothing about a decoder that does not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[EngineKind, int] = {}
        self._lost: str | None = None

    @property
    def lost(self) -> bool:
        """Whether nothing that this process asks of the device will work again."""
        return self._lost is not None

    @property
    def complaint(self) -> str | None:
        """Why the device is not alive; None when it is."""
        if self._lost is not None:
            return f"the device is lost: {self._lost}"
        with self._lock:
            failing = max(self._failures, key=self._failures.__getitem__, default=None)
            if failing is None or self._failures[failing] < MAX_CONSECUTIVE_FAILURES:
                return None
            return f"the last {self._failures[failing]} batches of the {failing} failed"

    def worked(self, engine: EngineKind) -> None:
        """Note that a batch of an engine worked."""
        if engine in self._failures:
            with self._lock:
                del self._failures[engine]

    def failed(self, engine: EngineKind, error: Exception) -> FailureKind:
        """Note that a batch of an engine failed.

        Args:
            engine: The engine whose batch it was.
            error: What the runner raised.

        Returns:
            What the error means for the batches to come.
        """
        kind = kind_of(error)
        with self._lock:
            self._failures[engine] = self._failures.get(engine, 0) + 1
            if kind == "lost" and self._lost is None:
                self._lost = type(error).__name__
                logger.critical("the device is lost to this process", exc_info=error)
        return kind
