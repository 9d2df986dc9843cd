"""What the next tick of an engine of steps makes."""

from typing import Any, Generic, TypeVar

from flowmo.service.engine.calls import Batching
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.schedule import BucketTimes, choose, whole
from flowmo.service.engine.step_work import StepWork

W = TypeVar("W", bound=StepWork[Any])


class StepBatches(Generic[W]):
    """Chooses from the work that is inside; used under its engine's lock.

    Args:
        works: The work.
        batching: See :class:`StepEngine`.
    """

    def __init__(self, works: FairQueue[W], batching: Batching) -> None:
        self._works, self._batching = works, batching
        self._cohort: list[W] = []  # of batching other than by step

    def next(self, times: BucketTimes) -> tuple[list[W], int]:
        """What the next tick makes, and its bucket; nothing if nothing is inside.

        A picture comes once for each tile.
        """
        works = self._works
        if self._batching == "step" and 0 < works.parts <= times.buckets[-1]:
            # Where all fit there is nobody to choose from.
            jobs = [work for work in works for _ in range(work.ready_parts)]
            if (bucket := whole(sum([work.ready_rows for work in jobs]), times)) is not None:
                works.give_all()
                return jobs, bucket
        candidates = self._candidates(times)
        if not candidates:
            return [], 0
        tick = choose([work.ready_rows for work in candidates], times)
        jobs = [candidates[index] for index in tick.chosen]
        works.give(jobs)
        return jobs, tick.bucket

    def _candidates(self, times: BucketTimes) -> list[W]:
        """The work that may be in the next tick, in its order.

        A picture comes once for each tile that is ready.
        """
        if self._batching == "step":
            candidates, rows = list[W](), 0
            for work in self._works.order():
                candidates.append(work)
                rows += work.ready_rows
                # As many again, because one of two rows may not fit where a later one does.
                if rows >= 2 * times.buckets[-1]:
                    break
            return candidates
        self._cohort = [work for work in self._cohort if work in self._works]
        if not self._cohort:
            most = times.buckets[-1]
            slots = 1 if self._batching == "single" else most
            for work in self._works:  # by their age
                # A later step may be guided, and must fit into a tick then.
                need = 1 if self._batching == "single" else min(work.most_rows, most)
                if need > slots:
                    break
                slots -= need
                self._cohort.append(work)
        return [work for work in self._cohort for _ in range(work.ready_parts)]
