"""Counters, gauges and histograms, whoever holds them: this process, or Ray.

Names follow Prometheus: base units, ``_total`` added to counters by whoever exports them.
"""

from collections.abc import Sequence
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client import Histogram as PrometheusHistogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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

    def observe(self, *labels: str, value: float) -> None:
        """Count a value in a series, named by the values of its labels."""
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

    def render(self) -> bytes:
        """All series in Prometheus' text format; empty if they are read elsewhere."""
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

    def render(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self._registry)


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

    def observe(self, *labels: str, value: float) -> None:
        (self._histogram.labels(*labels) if labels else self._histogram).observe(value)

    def make(self, *labels: str) -> None:
        if labels:
            self._histogram.labels(*labels)
