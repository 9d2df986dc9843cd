"""What the server says that it computed: differences between two readings of ``/metrics``."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

_ROWS = 'flowmo_batch_rows_{}{{half="decode"}}'
_ROWS_UP_TO = re.compile(r'flowmo_batch_rows_bucket\{half="decode",le="([\d.]+)"\}')


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Totals of the decoder since the server started.

    Attributes:
        at: when they were read, in ``time.monotonic()``.
        rows: evaluations of the network, padding left out.
        padding: rows computed only to fill a batch size.
        ticks: batches.
        busy_seconds: of the batches.
        cpu_seconds: of the whole process, all threads.
        ticks_up_to: how many ticks had at most so many rows.
    """

    at: float
    rows: float
    padding: float
    ticks: float
    busy_seconds: float
    cpu_seconds: float
    ticks_up_to: Mapping[int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """What was computed between two snapshots.

    Attributes:
        seconds: between them.
        rows, padding, ticks, busy_seconds, cpu_seconds: as in :class:`Snapshot`.
        ticks_up_to: ticks by rows: those of the key or fewer, and more than of the key before.
    """

    seconds: float
    rows: int
    padding: int
    ticks: int
    busy_seconds: float
    cpu_seconds: float
    ticks_up_to: Mapping[int, int]

    @property
    def rows_a_second(self) -> float:
        """Throughput."""
        return self.rows / self.seconds

    @property
    def rows_a_tick(self) -> float:
        """Mean rows of a batch; 0 if there was none."""
        return self.rows / self.ticks if self.ticks else 0.0

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot) -> "Computed":
        """The difference."""
        ticks_up_to: dict[int, int] = {}
        below = 0.0
        for rows, total in sorted(after.ticks_up_to.items()):
            ticks = total - before.ticks_up_to[rows]
            if ticks > below:
                ticks_up_to[rows] = round(ticks - below)
            below = ticks
        return cls(
            seconds=after.at - before.at,
            rows=round(after.rows - before.rows),
            padding=round(after.padding - before.padding),
            ticks=round(after.ticks - before.ticks),
            busy_seconds=after.busy_seconds - before.busy_seconds,
            cpu_seconds=after.cpu_seconds - before.cpu_seconds,
            ticks_up_to=ticks_up_to,
        )

    def plus(self, other: "Computed") -> "Computed":
        """Both together."""
        ticks = {
            rows: self.ticks_up_to.get(rows, 0) + other.ticks_up_to.get(rows, 0)
            for rows in sorted({*self.ticks_up_to, *other.ticks_up_to})
        }
        return Computed(
            seconds=self.seconds + other.seconds,
            rows=self.rows + other.rows,
            padding=self.padding + other.padding,
            ticks=self.ticks + other.ticks,
            busy_seconds=self.busy_seconds + other.busy_seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            ticks_up_to=ticks,
        )


async def snapshot(client: httpx.AsyncClient) -> Snapshot:
    """Read the totals.

    Raises:
        httpx.HTTPError: the server does not answer.
        KeyError: it does not count what it should.
    """
    answer = (await client.get("/metrics")).raise_for_status()
    return read_totals(answer.text, at=time.monotonic())


def read_totals(text: str, *, at: float) -> Snapshot:
    """The totals of a scrape in Prometheus' text format.

    Args:
        text: the scrape.
        at: when it was made.

    Raises:
        KeyError: a series is missing.
    """
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            values[series] = float(value)
    return Snapshot(
        at=at,
        rows=values[_ROWS.format("sum")],
        padding=values['flowmo_batch_padding_rows_total{half="decode"}'],
        ticks=values[_ROWS.format("count")],
        busy_seconds=values["flowmo_step_duration_seconds_sum"],
        # Counted on Linux only.
        cpu_seconds=values.get("process_cpu_seconds_total", 0.0),
        ticks_up_to={
            int(float(match[1])): value
            for series, value in values.items()
            if (match := _ROWS_UP_TO.fullmatch(series))
        },
    )
