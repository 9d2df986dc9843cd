"""Who goes first: weighted fair sharing of the rows of every tick.

Work is shared on two levels. *Flows* - the work of one tenant at one priority - share the rows of a
tick by their weights (self-clocked fair queueing). Inside a flow the *entries* - one request each -
are served in the order in which they would end if the flow's rows were shared evenly among them.
That order is known as soon as work comes, because the rows of a decode are known: a short decode
goes before a long one, and a long one that has waited goes before short ones that come later.

The order inside a flow is kept by a clock, V: the rows that even sharing would have given to each
entry so far. An entry of R rows that comes at V ends at V + R, however many come later; they slow
the clock, not the entry's place. V moves by the rows that the flow was really given, up to the
first entry that was passed over, and by one row a tick at most. So the entries with the earliest
ends have really got at least what even sharing would have given to them, and when V comes to an
entry's end, the entry is done.
"""

import bisect
import heapq
import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from flowmo.service.engine.calls import Call, Priority

# The share of interactive work, and of batch work, beside each other.
PRIORITY_WEIGHT: dict[Priority, float] = {"interactive": 1.0, "batch": 0.125}

_serial = itertools.count()


class Job(Protocol):
    """Work that shares ticks with other work."""

    @property
    def call(self) -> Call:
        """Whose work it is, and how urgent."""
        ...

    @property
    def ready_rows(self) -> int:
        """The rows of one part of the work, which must be in one tick; at least 1."""
        ...

    @property
    def ready_parts(self) -> int:
        """How many such parts may be in the next tick, together or not: at least 1."""
        ...

    @property
    def rows_left(self) -> int:
        """The rows of all its ticks to come, those of the next included."""
        ...


J = TypeVar("J", bound=Job)


def _exact(tag: float) -> float:
    """A tag without the rounding of its sums: of equals the first that came goes first."""
    return round(tag, 9)


@dataclass(eq=False, slots=True)
class _Entry(Generic[J]):
    """One request: it came at ``start`` of its flow's clock, and ends at ``end`` at the latest."""

    job: J
    flow: "_Flow[J]"
    start: float
    end: float
    rows: int
    parts: int
    given: int = 0
    serial: int = field(default_factory=lambda: next(_serial))

    @property
    def order(self) -> tuple[float, int]:
        return _exact(self.end), self.serial

    @property
    def left(self) -> int:
        return self.rows - self.given


@dataclass(eq=False, slots=True)
class _Flow(Generic[J]):
    """The work of one tenant at one priority.

    Attributes:
        weight: The flow's share beside other flows.
        tag: What the flow has been given, in rows by its weight; the smallest is served first.
        clock: V.
        entries: What is inside, by its end.
        ends: A heap of the ends that even sharing has not come to yet; entries that have really
            ended are in it too.
        left: The rows that the entries are still to be given.
    """

    weight: float
    tag: float
    left: int = 0
    clock: float = 0.0
    entries: list[_Entry[J]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    serial: int = field(default_factory=lambda: next(_serial))

    def advance(self, rows: float) -> None:
        """Move the clock on by rows that are shared evenly, by one row a share at most."""
        until = self.clock + 1.0
        while self.ends:
            to = min(self.clock + rows / len(self.ends), until)
            if to < self.ends[0]:
                self.clock = to
                return
            rows = max(0.0, rows - (self.ends[0] - self.clock) * len(self.ends))
            self.clock = heapq.heappop(self.ends)


class FairQueue(Generic[J]):
    """Shares ticks among the jobs that are inside.

    Guaranteed to each tenant that has work: of the rows of every tick, a share by its weight, as
    far as it has rows that are ready; what others cannot use is shared by the rest. Guaranteed to
    each job of R rows: where its flow's share is S rows of every tick and at most n jobs would be
    inside the flow if rows were shared evenly, it is done within R (1 + n / S) ticks, however long
    the others are and whatever comes later - S - 1 for S where steps take two rows. Batch work is
    never starved: beside a tenant's interactive work it has an eighth of its share.

    It is used under its engine's lock. What takes ticks offers them in :meth:`order`, and says with
    :meth:`give` what was taken.
    """

    def __init__(self) -> None:
        self._flows: dict[Hashable, _Flow[J]] = {}
        self._entries: dict[J, _Entry[J]] = {}
        self._tag = 0.0  # of the flow that was passed over and had been given least
        self._left = 0
        self._parts = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[J]:
        """The jobs by their age; others may come and go meanwhile."""
        return iter(tuple(self._entries))

    def __contains__(self, job: J) -> bool:
        return job in self._entries

    @property
    def rows_left(self) -> int:
        """The rows of all jobs that are inside."""
        return self._left

    @property
    def parts(self) -> int:
        """What of all jobs may be in one tick at most, counted in parts."""
        return self._parts

    def loads(self) -> Iterator[tuple[int, int]]:
        """The rows that are left of each job, by their age, and the parts they come in at once."""
        return ((entry.left, entry.parts) for entry in self._entries.values())

    def add(self, job: J) -> None:
        """Take a job in."""
        key = (job.call.tenant, job.call.priority)
        weight = job.call.weight * PRIORITY_WEIGHT[job.call.priority]
        if (flow := self._flows.get(key)) is None:
            flow = self._flows[key] = _Flow(weight=weight, tag=self._tag)
        flow.weight = weight
        if not flow.entries:
            flow.tag = max(flow.tag, self._tag)
        rows = job.rows_left
        start, parts = flow.clock, job.ready_parts
        entry = _Entry(job, flow, start=start, end=start + rows, rows=rows, parts=parts)
        bisect.insort(flow.entries, entry, key=lambda e: e.order)
        flow.left += rows
        self._left += rows
        self._parts += parts
        heapq.heappush(flow.ends, entry.end)
        self._entries[job] = entry

    def remove(self, job: J) -> None:
        """Let a job go, done or not. One that is not inside is none of its business."""
        if (entry := self._entries.pop(job, None)) is None:
            return
        flow = entry.flow
        flow.left -= entry.left
        self._left -= entry.left
        self._parts -= entry.parts
        del flow.entries[bisect.bisect_left(flow.entries, entry.order, key=lambda e: e.order)]
        if not flow.entries:  # nobody is left whom sharing could be unfair to
            flow.ends.clear()
            self._forget_idle()
        elif entry.left and entry.end > flow.clock:
            # It weighs on the clock until it has been given on it what it really was.
            flow.ends.remove(entry.end)
            if (end := entry.start + entry.given) > flow.clock:
                flow.ends.append(end)
            heapq.heapify(flow.ends)

    def _forget_idle(self) -> None:
        for key, flow in tuple(self._flows.items()):
            if not flow.entries and (flow.tag <= self._tag or not self._entries):
                del self._flows[key]

    def order(self) -> Iterator[J]:
        """The jobs in the order in which they have a right to the next tick.

        One of several ready parts comes once for each. Where tenants share, others' come between.
        """
        flows = []
        for flow in self._flows.values():
            if flow.entries:
                job = flow.entries[0].job
                tag = flow.tag + job.ready_rows / flow.weight
                flows.append(((_exact(tag), flow.serial), 0, job.ready_parts, tag, flow))
        heapq.heapify(flows)
        while flows:
            _, index, parts, tag, flow = flows[0]
            job = flow.entries[index].job
            yield job
            parts -= 1
            if not parts:
                index += 1
                if index == len(flow.entries):
                    heapq.heappop(flows)
                    continue
                job = flow.entries[index].job
                parts = job.ready_parts
            tag += job.ready_rows / flow.weight
            heapq.heapreplace(flows, ((_exact(tag), flow.serial), index, parts, tag, flow))

    def give(self, jobs: Sequence[J]) -> None:
        """Note that a tick was given to jobs.

        Args:
            jobs: Jobs that are inside, each as often as parts of it are in the tick, with the rows
                that they had ready in :meth:`order`.
        """
        rows: dict[_Entry[J], int] = {}
        for job in jobs:
            entry = self._entries[job]
            rows[entry] = rows.get(entry, 0) + job.ready_rows
        served = {entry.flow: None for entry in rows}
        passed_over = [f for f in self._flows.values() if f not in served and f.entries]
        for flow in served:
            prefix, whole = 0, True
            for entry in flow.entries:
                if entry not in rows:
                    whole = False
                    break
                prefix += rows[entry]
                if rows[entry] < entry.job.ready_rows * entry.job.ready_parts:
                    whole = False
                    break
            if not whole:
                passed_over.append(flow)
            flow.advance(prefix)
        for entry, given in rows.items():
            self._count(entry, given)
            entry.flow.tag += given / entry.flow.weight
        if passed_over:
            self._tag = max(self._tag, min(flow.tag for flow in passed_over))
        elif served:
            self._tag = max(self._tag, *(flow.tag for flow in served))
        for flow in served:
            if flow not in passed_over:  # what it could not use is no credit
                flow.tag = max(flow.tag, self._tag)

    def give_all(self) -> None:
        """Note that a tick was given to all jobs, each of all its ready rows."""
        flows = [flow for flow in self._flows.values() if flow.entries]
        for flow in flows:
            rows = 0
            for entry in flow.entries:
                ready = entry.job.ready_rows * entry.job.ready_parts
                entry.given += ready
                rows += ready
            flow.left -= rows
            self._left -= rows
            flow.advance(rows)
            self._tag = max(self._tag, flow.tag + rows / flow.weight)
        for flow in flows:  # what it could not use is no credit
            flow.tag = self._tag

    def take_back(self, jobs: Sequence[J]) -> None:
        """Note that a tick came to nothing, and will be made again.

        Args:
            jobs: As in :meth:`give`; those that are not inside any more are passed over.
        """
        for job in jobs:
            if (entry := self._entries.get(job)) is not None:
                self._count(entry, -job.ready_rows)

    def _count(self, entry: _Entry[J], rows: int) -> None:
        entry.given += rows
        entry.flow.left -= rows
        self._left -= rows

    def ahead(self, call: Call, rows: int) -> tuple[int, float]:
        """What would go before a new job.

        Args:
            call: Whose job it would be, and how urgent.
            rows: The rows of all its ticks.

        Returns:
            The parts of jobs of its own flow that would go before it; and the rows that they and
            other flows would take until it is done.
        """
        weight = call.weight * PRIORITY_WEIGHT[call.priority]
        own = self._flows.get((call.tenant, call.priority))
        parts, before = 0, 0.0
        if own is not None:
            jobs = bisect.bisect_right(own.entries, own.clock + rows, key=lambda e: e.order[0])
            before = float(sum(entry.left for entry in own.entries[:jobs]))
            parts = sum(entry.parts for entry in own.entries[:jobs])
        share = (before + rows) / weight
        for flow in self._flows.values():
            if flow is not own and flow.entries:
                before += min(flow.left, share * flow.weight)
        return parts, before
