"""What the server says that it computed: differences between two readings of ``/metrics``."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from benchmarks.serving.cpu import machine_cpu_seconds

_MODEL = re.compile(r',?model="[^"]*"')
_ROWS = 'flowmo_batch_rows_{}{{engine="decoder"}}'
_ROWS_UP_TO = re.compile(r'flowmo_batch_rows_bucket\{engine="decoder",le="([\d.]+)"\}')


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Totals: of the decoder since the server started, and of processors.

    Attributes:
        at: when they were read, in ``time.monotonic()``.
        rows: evaluations of the network, padding left out.
        padding: rows computed only to fill a batch size.
        ticks: batches.
        busy_seconds: of the batches.
        cpu_seconds: of the server's process, all threads.
        generator_cpu_seconds: of this process.
        machine_cpu_seconds: the same of this machine; None where the system does not say.
        ticks_up_to: how many ticks had at most so many rows.
    """

    at: float
    rows: float
    padding: float
    ticks: float
    busy_seconds: float
    cpu_seconds: float
    generator_cpu_seconds: float
    machine_cpu_seconds: float | None
    ticks_up_to: Mapping[int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """What was computed between two snapshots.

    Attributes:
        seconds: between them.
        rows, padding, ticks, busy_seconds: as in :class:`Snapshot`.
        server_cores, generator_cores: processors that these two kept busy on average.
        other_cores: processors that everything else on the machine kept busy on average. Where
            this is not near 0, others' work is in the figures.
        ticks_up_to: ticks by rows: those of the key or fewer, and more than of the key before.
    """

    seconds: float
    rows: int
    padding: int
    ticks: int
    busy_seconds: float
    server_cores: float
    generator_cores: float
    other_cores: float | None
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
        seconds = after.at - before.at
        server = after.cpu_seconds - before.cpu_seconds
        generator = after.generator_cpu_seconds - before.generator_cpu_seconds
        others = None
        if before.machine_cpu_seconds is not None and after.machine_cpu_seconds is not None:
            machine = after.machine_cpu_seconds - before.machine_cpu_seconds
            # The three are not read at quite the same instant.
            others = max(0.0, machine - server - generator) / seconds
        return cls(
            seconds=seconds,
            rows=round(after.rows - before.rows),
            padding=round(after.padding - before.padding),
            ticks=round(after.ticks - before.ticks),
            busy_seconds=after.busy_seconds - before.busy_seconds,
            server_cores=server / seconds,
            generator_cores=generator / seconds,
            other_cores=others,
            ticks_up_to=ticks_up_to,
        )

    def plus(self, other: "Computed") -> "Computed":
        """Both together."""
        ticks = {
            rows: self.ticks_up_to.get(rows, 0) + other.ticks_up_to.get(rows, 0)
            for rows in sorted({*self.ticks_up_to, *other.ticks_up_to})
        }
        seconds = self.seconds + other.seconds

        def mean(mine: float, its: float) -> float:
            return (mine * self.seconds + its * other.seconds) / seconds

        others = None
        if self.other_cores is not None and other.other_cores is not None:
            others = mean(self.other_cores, other.other_cores)
        return Computed(
            seconds=seconds,
            rows=self.rows + other.rows,
            padding=self.padding + other.padding,
            ticks=self.ticks + other.ticks,
            busy_seconds=self.busy_seconds + other.busy_seconds,
            server_cores=mean(self.server_cores, other.server_cores),
            generator_cores=mean(self.generator_cores, other.generator_cores),
            other_cores=others,
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
            # One model is served, whatever its name.
            series = _MODEL.sub("", series).replace("{,", "{").replace("{}", "")
            values[series] = float(value)
    return Snapshot(
        at=at,
        rows=values[_ROWS.format("sum")],
        padding=values['flowmo_batch_padding_rows_total{engine="decoder"}'],
        ticks=values[_ROWS.format("count")],
        busy_seconds=values["flowmo_step_duration_seconds_sum"],
        # Counted on Linux only.
        cpu_seconds=values.get("process_cpu_seconds_total", 0.0),
        generator_cpu_seconds=time.process_time(),
        machine_cpu_seconds=machine_cpu_seconds(),
        ticks_up_to={
            int(float(match[1])): value
            for series, value in values.items()
            if (match := _ROWS_UP_TO.fullmatch(series))
        },
    )
