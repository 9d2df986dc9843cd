"""The emulated GPU: its times, and that the engine's ticks take them."""

import pytest

from benchmarks.serving.disciplines import MIXES, compare, drawn, models
from benchmarks.serving.fairness import figures
from benchmarks.serving.roofline import (
    HOST_SECONDS,
    Arrival,
    alone_seconds,
    bucket_seconds,
    serve,
    tick_seconds,
)
from flowmo.model.config import SamplerConfig

TICK = 0.01
# A batch costs what one row costs, whatever its size.
FREE_ROWS = dict.fromkeys((1, 2, 4, 8, 16), TICK)


def plain(steps: int) -> SamplerConfig:
    return SamplerConfig(steps=steps, guidance=1.0)


def test_rows_are_nearly_free_for_a_small_model_and_cost_their_share_of_lo() -> None:
    demo, _, lo = models()
    assert 1 < tick_seconds(demo, 16) / tick_seconds(demo, 1) < 1.4
    assert 12 < tick_seconds(lo, 16) / tick_seconds(lo, 1) < 16
    # Its roofline: 3.616 TFLOP of a row at 798 TFLOP/s.
    assert tick_seconds(lo, 16) == pytest.approx(16 * 3.616 / 798, rel=0.03)


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (25, 1.0), (25, 1.5)])
def test_a_decode_alone_takes_its_ticks(steps: int, guidance: float) -> None:
    sampler = SamplerConfig(steps=steps, guidance=guidance)
    alone = alone_seconds(sampler, tuple(FREE_ROWS.items()))
    assert alone == pytest.approx(HOST_SECONDS + steps * TICK)


def test_by_step_a_decode_joins_the_next_ticks_and_by_request_it_waits_for_the_batch() -> None:
    arrivals = [Arrival(at=0.0, sampler=plain(10)), Arrival(at=0.5 * TICK, sampler=plain(4))]
    by_step = serve(arrivals, FREE_ROWS, batching="step")
    by_request = serve(arrivals, FREE_ROWS, batching="request")
    assert by_step.ticks == 10
    assert by_request.ticks == 14
    # Two ticks are in flight when it comes.
    assert by_step.latencies[1] == pytest.approx(5.5 * TICK, abs=TICK)
    assert by_request.latencies[1] == pytest.approx(13.5 * TICK, abs=2 * HOST_SECONDS)


def test_fairly_a_short_decode_goes_before_long_ones_and_by_age_behind_them() -> None:
    longs = [Arrival(at=0.0, sampler=plain(100))] * 16
    arrivals = [*longs, Arrival(at=20.5 * TICK, sampler=plain(4))]
    fair = serve(arrivals, FREE_ROWS).latencies
    oldest = serve(arrivals, FREE_ROWS, oldest_first=True).latencies
    assert fair[-1] < 7 * TICK
    assert oldest[-1] > 80 * TICK
    assert max(fair[:-1]) < 106 * TICK
    found = figures(arrivals, fair, FREE_ROWS)
    assert found["all"]["decodes"] == 17
    assert found["4 steps"]["slowdown"]["p95"] == pytest.approx(
        fair[-1] / (HOST_SECONDS + 4 * TICK)
    )


def test_all_decodes_of_a_comparison_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.serving.disciplines.REQUESTS", 60)
    monkeypatch.setattr("benchmarks.serving.disciplines.SEEDS", (0,))
    samplers = drawn(MIXES["few-step"], 100, seed=3)
    assert sum(sampler.steps == 25 for sampler in samplers) == 10
    found = compare(models()[0], "all 4 steps")
    # Decodes that are all alike fill batches by request as well as by step.
    assert found["capacity"]["request"] == pytest.approx(found["capacity"]["step"], rel=0.05)
    step, request = found["load of the capacity by step"]["points"]
    assert (step["batching"], request["batching"]) == ("step", "request")
    assert step["slowdown"]["p50"] >= 1
    assert bucket_seconds(models()[0])[1] * 4 <= step["latency"]["p50"]
