"""An estimate that refuses work on an idle device is measured again.

Times are learned from batches that run. A device that was measured while the machine was busy may
be thought so slow that every request is refused as late: then no batch runs, and nothing would ever
be learned. So the first refusal on an idle device has it timed anew, for those that come after.
"""

import time
from collections.abc import Callable

from flowmo.service.engine.health import DeviceHealth
from flowmo.service.engine.observer import EngineKind
from flowmo.service.engine.schedule import BucketTimes

# How often at most: a batch costs as much as one that somebody waits for.
RECHECK_SECONDS = 5.0
_BATCHES = 2


class Recheck:
    """When to measure again, and the measurement.

    Args:
        seconds_of: Runs a batch of a size, and says how many seconds it took; called from the
            device thread.
        clock: Gives the time, in seconds.

    Attributes:
        is_due: Whether the device thread is to measure; guarded by its lock.
    """

    def __init__(
        self, seconds_of: Callable[[int], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds_of, self._clock = seconds_of, clock
        self._last: float | None = None
        self.is_due = False

    def ask(self) -> bool:
        """Say that an idle device has refused work. The lock is held.

        Returns:
            Whether it is measured now: the device thread is to be woken.
        """
        now = self._clock()
        if self.is_due or (self._last is not None and now - self._last < RECHECK_SECONDS):
            return False
        self.is_due, self._last = True, now
        return True

    def run(self, times: BucketTimes, health: DeviceHealth, engine: EngineKind) -> None:
        """Measure the smallest batch; called from the device thread, without the lock.

        Args:
            times: What is corrected.
            health: What a failure counts for: the batch is nobody's, so it fails no request.
            engine: The engine's name there.
        """
        self.is_due = False
        bucket = times.buckets[0]
        try:
            least = min(self._seconds_of(bucket) for _ in range(_BATCHES))
        except Exception as error:  # noqa: BLE001
            health.failed(engine, error)
            return
        times.correct(bucket, least)
