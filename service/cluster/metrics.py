"""Counters, gauges and histograms that Ray's agent of each node exports."""

from collections.abc import Sequence
from typing import Any

from ray.serve import metrics

from flowmo.service.telemetry.instruments import Counter, Exposition, Gauge, Histogram


class RayInstruments:
    """Instruments that Ray holds: the same names as in one process, with ``ray_`` before them."""

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """See :meth:`Instruments.counter`."""
        return _Counter(metrics.Counter(name, text, _keys(labels)), labels)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """See :meth:`Instruments.gauge`."""
        return _Gauge(metrics.Gauge(name, text, _keys(labels)), labels)

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]
    ) -> Histogram:
        """See :meth:`Instruments.histogram`."""
        return _Histogram(metrics.Histogram(name, text, list(buckets), _keys(labels)), labels)

    def render(self, accept: str = "") -> Exposition:  # noqa: ARG002
        """Nothing: the agent of each node exports the series."""
        return Exposition(b"", "text/plain")


def _keys(labels: Sequence[str]) -> Any:
    """Type label names as Ray annotates them: tuple[str] means a tuple of any length."""
    return tuple(labels)


class _Labelled:
    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)

    def _tags(self, values: Sequence[str]) -> dict[str, str]:
        return dict(zip(self._labels, values, strict=True))


class _Counter(_Labelled):
    def __init__(self, counter: metrics.Counter, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self._counter = counter

    def inc(self, *labels: str, by: float = 1) -> None:
        if by:  # Ray refuses 0
            self._counter.inc(by, self._tags(labels))


class _Gauge(_Labelled):
    def __init__(self, gauge: metrics.Gauge, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self._gauge = gauge

    def set(self, *labels: str, to: float) -> None:
        self._gauge.set(to, self._tags(labels))

    def forget(self, *labels: str) -> None:
        self._gauge.set(0, self._tags(labels))


class _Histogram(_Labelled):
    def __init__(self, histogram: metrics.Histogram, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self._histogram = histogram

    def observe(
        self,
        *labels: str,
        value: float,
        trace: str | None = None,  # noqa: ARG002  (Ray has no exemplars)
    ) -> None:
        self._histogram.observe(value, self._tags(labels))

    def make(self, *labels: str) -> None:
        """Do nothing: Ray has no series without a value."""
