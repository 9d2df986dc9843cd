"""How many replicas there should be, from the work they have and not from requests.

Requests say little about work: one may take 1 row of the network or 200. So each replica reports to
Ray the seconds of work that wait in it, and the share of its best rate that it has computed at.
"""

import time
from collections.abc import Callable
from typing import Any

from ray.serve.config import AutoscalingContext

BACKLOG = "backlog_seconds"
WORK = "work_share"
# Of a replica's best rate; above it the waits grow fast.
_FILL = 0.8


class BacklogPolicy:
    """Asks for so many replicas that each has at most so much work waiting, and some rate to spare.

    The backlog asks for more of them as soon as work piles up; the share of the best rate keeps as
    many as the steady load needs when nothing is piled up any more.

    Args:
        target_seconds: The seconds of work that may wait in a replica.
    """

    def __init__(self, target_seconds: float) -> None:
        self._target = target_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Choose the number of replicas; Ray's controller applies bounds and delays to it.

        Args:
            context: What replicas reported, and how many there are.

        Returns:
            The number of replicas, and the state that Ray hands back the next time: none.
        """
        metrics = context.aggregated_metrics or {}
        if not metrics.get(BACKLOG):  # no replica has said anything yet
            return float(context.target_num_replicas), {}
        waiting = sum(metrics[BACKLOG].values()) / self._target
        working = sum(metrics.get(WORK, {}).values()) / _FILL
        return max(waiting, working), {}


class WorkShare:
    """The share of its best rate that an engine has computed at since the last call.

    Args:
        computed: Gives the seconds that all the engine's work takes at its best rate.
        clock: Gives the time, in seconds.
    """

    def __init__(
        self, computed: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._computed, self._clock = computed, clock
        self._seen, self._at = computed(), clock()

    def __call__(self) -> float:
        """The share since the last call, from 0 to about 1."""
        computed, now = self._computed(), self._clock()
        share = (computed - self._seen) / max(now - self._at, 1e-9)
        self._seen, self._at = computed, now
        return share
