"""Counters, gauges and histograms, whoever holds them: this process, or Ray.

Names follow Prometheus: base units, ``_total`` added to counters by whoever exports them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics


@dataclass(frozen=True, slots=True)
class Exposition:
    """All series as a scraper reads them.

    Attributes:
        body: The series as text.
        content_type: The format of the text, for the header of the same name.
    """

    body: bytes
    content_type: str


class Counter(Protocol):
    """A number that only grows."""

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add to a series.

        Args:
            labels: The values of the counter's labels.
            by: What is added; 0 makes the series be there.
        """
        ...


class Gauge(Protocol):
    """A number that goes up and down."""

    def set(self, *labels: str, to: float) -> None:
        """Set a series, named by the values of its labels, to a value."""
        ...

    def forget(self, *labels: str) -> None:
        """Remove a series, named by the values of its labels."""
        ...


class Histogram(Protocol):
    """A distribution of values."""

    def observe(self, *labels: str, value: float, trace: str | None = None) -> None:
        """Count a value in a series.

        Args:
            labels: The values of the histogram's labels.
            value: The value.
            trace: The id of a trace that shows where the value comes from; kept as the exemplar of
                the value's bucket where whoever holds the series can.
        """
        ...

    def make(self, *labels: str) -> None:
        """Let a series, named by the values of its labels, be there before its first value."""
        ...


class Instruments(Protocol):
    """Makes instruments. Label names are given once, values at each use, in the same order."""

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Make a counter; ``name`` has no ``_total``."""
        ...

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Make a gauge."""
        ...

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]
    ) -> Histogram:
        """Make a histogram whose buckets have these upper edges."""
        ...

    def render(self, accept: str = "") -> Exposition:
        """All series; none if they are read elsewhere.

        Args:
            accept: The scraper's header ``Accept``. With ``application/openmetrics-text`` the
                answer is in that format, which has exemplars, and else in Prometheus' own.
        """
        ...


class PrometheusInstruments:
    """Instruments that this process holds, and exports at its own ``/metrics``.

    One registry an application, so that several can live in one process (tests do).
    """

    def __init__(self) -> None:
        # A gauge beside every other series, which Ray does not have and nobody looks at.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """See :meth:`Instruments.counter`."""
        return _Counter(PrometheusCounter(name, text, labels, registry=self._registry))

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """See :meth:`Instruments.gauge`."""
        return _Gauge(PrometheusGauge(name, text, labels, registry=self._registry))

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]
    ) -> Histogram:
        """See :meth:`Instruments.histogram`."""
        return _Histogram(
            PrometheusHistogram(name, text, labels, buckets=buckets, registry=self._registry)
        )

    def render(self, accept: str = "") -> Exposition:
        """See :meth:`Instruments.render`."""
        return expose(self._registry, accept)


def expose(registry: CollectorRegistry, accept: str) -> Exposition:
    """Write what a registry has in the format that a scraper asks for.

    Args:
        registry: Has the series.
        accept: The scraper's header ``Accept``.
    """
    # The library's own choice fails on a version that is no number, and repeats any that is.
    if any(_is_openmetrics(entry) for entry in accept.split(",")):
        return Exposition(generate_openmetrics(registry), OPENMETRICS)  # type: ignore[no-untyped-call]
    return Exposition(generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)


def _is_openmetrics(entry: str) -> bool:
    """Whether an entry of ``Accept`` is OpenMetrics in the one version that is written."""
    media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
    versions = [p.removeprefix("version=") for p in parameters if p.startswith("version=")]
    return media_type == "application/openmetrics-text" and versions in ([], ["1.0.0"])


class _Counter:
    def __init__(self, counter: PrometheusCounter) -> None:
        self._counter = counter

    def inc(self, *labels: str, by: float = 1) -> None:
        (self._counter.labels(*labels) if labels else self._counter).inc(by)


class _Gauge:
    def __init__(self, gauge: PrometheusGauge) -> None:
        self._gauge = gauge

    def set(self, *labels: str, to: float) -> None:
        (self._gauge.labels(*labels) if labels else self._gauge).set(to)

    def forget(self, *labels: str) -> None:
        self._gauge.remove(*labels)


class _Histogram:
    def __init__(self, histogram: PrometheusHistogram) -> None:
        self._histogram = histogram

    def observe(self, *labels: str, value: float, trace: str | None = None) -> None:
        series = self._histogram.labels(*labels) if labels else self._histogram
        series.observe(value, None if trace is None else {"trace_id": trace})

    def make(self, *labels: str) -> None:
        if labels:
            self._histogram.labels(*labels)
