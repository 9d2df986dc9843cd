"""The series of all processes of one server, as one: prometheus_client's multi-process mode.

Each process keeps its numbers in files of its own, which whichever gateway is scraped adds up.
Files have the processes' names, not their ids: a process that takes another's place goes on with
its counters, so that nothing that was counted is lost.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, values
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from flowmo.service.telemetry.instruments import (
    Exposition,
    Gauge,
    PrometheusInstruments,
    expose,
)

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# A model takes requests when all gateways say so; what is served, and what runs, is so once.
_MODES = {
    "flowmo_ready": "livemin",
    "flowmo_model_info": "livemax",
    "flowmo_build_info": "livemax",
}
_PID = ".pid"


class SharedInstruments(PrometheusInstruments):
    """Instruments whose series are the sums over all processes of one server.

    Made once a process, before any other instrument.

    Args:
        folder: Of the server's metrics; every process has the same.
        name: The name of this process among them.
    """

    def __init__(self, folder: Path, name: str) -> None:
        os.environ[FOLDER_VARIABLE] = str(folder)
        values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
        super().__init__()
        self._folder = folder
        (folder / f"{name}{_PID}").write_text(str(os.getpid()))

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """See :meth:`Instruments.gauge`."""
        mode = _MODES.get(name, "livesum")
        return _SharedGauge(
            PrometheusGauge(
                name,
                text,
                labels,
                registry=self._registry,
                multiprocess_mode=mode,  # type: ignore[arg-type]
            )
        )

    def render(self, accept: str = "") -> Exposition:
        """All series, those of processes with the label ``process``; exemplars are not kept."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        registry.register(_Processes(self._folder))
        return expose(registry, accept)


def forget_process(folder: Path, name: str) -> None:
    """Drop the gauges of a process that has ended; what it has counted stays.

    Args:
        folder: Of the server's metrics.
        name: The name of the process.
    """
    mark_process_dead(name, str(folder))  # type: ignore[no-untyped-call]
    (folder / f"{name}{_PID}").unlink(missing_ok=True)


class _SharedGauge:
    def __init__(self, gauge: PrometheusGauge) -> None:
        self._gauge = gauge

    def set(self, *labels: str, to: float) -> None:
        (self._gauge.labels(*labels) if labels else self._gauge).set(to)

    def forget(self, *labels: str) -> None:
        # Series of this mode cannot be removed.
        self._gauge.labels(*labels).set(0)


class _Processes:
    """Memory, processor time and descriptors of each process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for file in sorted(self._folder.glob(f"*{_PID}")):
            pid = file.read_text()
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                together = found.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    together.add_sample(sample.name, {"process": file.stem}, sample.value)
        yield from found.values()
