"""Engines of steps that share one device by its time, whatever a tick of each takes."""

import time
from collections.abc import Callable, Sequence

from flowmo.service.engine.device import Worker


class StepTurns:
    """Several engines as one :class:`Worker`, which has the turns of all of them.

    Guaranteed to each that has work: as much of their time as every other. The next tick is that of
    the engine which has had least; one that had nothing to do gets no credit for it. An engine
    whose ticks are long has fewer of them.

    Args:
        engines: The engines, at least one.
        clock: Gives the time, in seconds.
    """

    def __init__(
        self, engines: Sequence[Worker], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engines, self._clock = tuple(engines), clock
        self._had = dict.fromkeys(self._engines, 0.0)
        self._idle = set(self._engines)
        self._next = self._engines[0]

    def warm_up(self) -> float:
        """See :meth:`Worker.warm_up`."""
        return max(engine.warm_up() for engine in self._engines)

    def due(self) -> float | None:
        """See :meth:`Worker.due`."""
        due = {engine: at for engine in self._engines if (at := engine.due()) is not None}
        if not due:
            self._idle = set(self._engines)
            return None
        busy = [engine for engine in due if engine not in self._idle]
        least = min((self._had[engine] for engine in busy), default=0.0)
        for engine in self._engines:
            if engine not in due:
                self._idle.add(engine)
            elif engine in self._idle:
                self._idle.discard(engine)
                self._had[engine] = max(self._had[engine], least)
        self._next = min(due, key=self._had.__getitem__)
        return min(due.values())

    def run(self) -> None:
        """See :meth:`Worker.run`."""
        engine, begin = self._next, self._clock()
        engine.run()
        self._had[engine] += self._clock() - begin

    def abandon(self) -> None:
        """See :meth:`Worker.abandon`."""
        for engine in self._engines:
            engine.abandon()
