"""The times of one request's stages: in its header, and in the metrics."""

from flowmo.service.http.stage_clock import StageClock
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics


def test_a_stage_that_comes_twice_adds_up_in_the_header_and_counts_twice() -> None:
    metrics = Metrics(PrometheusInstruments())
    clock = StageClock(metrics, "nano")
    clock.add({"queue": 0.25, "encode": 0.5})
    clock.add({"queue": 0.125, "sample": 1.0})
    assert clock.header() == "queue;dur=375.00, encode;dur=500.00, sample;dur=1000.00"
    series = 'flowmo_stage_duration_seconds_{}{{model="nano",stage="queue"}} {}'
    scraped = metrics.render().body.decode()
    assert series.format("count", 2.0) in scraped
    assert series.format("sum", 0.375) in scraped
