"""The load benchmark: its arithmetic in closed form, its sender, and a whole run in small."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.gpu import serving as on_a_gpu
from benchmarks.serving.__main__ import measure
from benchmarks.serving.arrivals import poisson_arrivals
from benchmarks.serving.cpu import busy_ticks
from benchmarks.serving.load import Outcome, connect, open_loop, read_stages
from benchmarks.serving.plan import Plan, Point
from benchmarks.serving.scrape import Computed, read_totals
from benchmarks.serving.summary import percentile, spread, summarize
from benchmarks.serving.workload import MIX, Ask, Kind, Workload
from flowmo.model.config import SamplerConfig
from flowmo.model.flowmo import FlowMo

PLAIN = SamplerConfig(steps=4, guidance=1.0)
WORKLOAD = Workload(kinds=MIX, containers=[b"one", b"two"], default=PLAIN)
ASK = WORKLOAD.draw(1, seed=0)[0]


# --- arrivals -----------------------------------------------------------------------------------


def test_arrivals_are_a_poisson_process() -> None:
    rate, seconds = 20.0, 1000.0
    arrivals = np.array(poisson_arrivals(rate, seconds, seed=3))
    gaps = np.diff(arrivals)
    assert arrivals[0] >= 0
    assert arrivals[-1] < seconds
    assert (gaps >= 0).all()
    # Five standard deviations of a count of rate * seconds.
    assert len(arrivals) == pytest.approx(rate * seconds, abs=5 * math.sqrt(rate * seconds))
    # Gaps are exponential: standard deviation as large as the mean, a share 1/e beyond it.
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.04)
    assert (gaps > 1 / rate).mean() == pytest.approx(math.exp(-1), abs=0.02)
    # Counts in disjoint seconds vary as much as their mean, and do not depend on each other.
    counts = np.bincount(arrivals.astype(int), minlength=int(seconds))
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.25)
    assert abs(np.corrcoef(counts[:-1], counts[1:])[0, 1]) < 0.15


def test_arrivals_repeat_by_seed() -> None:
    assert poisson_arrivals(5.0, 10.0, seed=1) == poisson_arrivals(5.0, 10.0, seed=1)
    assert poisson_arrivals(5.0, 10.0, seed=1) != poisson_arrivals(5.0, 10.0, seed=2)


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_no_process_without_rate_or_length(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        poisson_arrivals(rate, seconds, seed=0)


# --- requests -----------------------------------------------------------------------------------


def test_shares_are_kept_in_every_draw() -> None:
    asks = WORKLOAD.draw(200, seed=5)
    assert Counter(ask.kind.name for ask in asks) == {
        kind.name: round(200 * kind.share) for kind in MIX
    }
    assert [ask.kind for ask in asks] != sorted((a.kind for a in asks), key=lambda kind: kind.name)
    assert asks == WORKLOAD.draw(200, seed=5)
    assert sum(ask.rows for ask in asks) / 200 == pytest.approx(WORKLOAD.mean_rows)


def test_rows_are_evaluations_of_the_network() -> None:
    def rows(kind: Kind) -> int:
        return WORKLOAD.rows(kind)

    # t = (i / 4)^4: of 1, 0.316, 0.063, 0.004 only the second lies in the guidance interval.
    assert rows(Kind(name="default")) == 4
    assert rows(Kind(name="more", steps=25)) == 25
    assert rows(Kind(name="guided", guidance=1.5)) == 5
    assert ASK.rows == rows(ASK.kind)


def test_options_are_sent_as_they_were_counted() -> None:
    for ask in WORKLOAD.each(1):
        assert ask.params.get("steps") == (ask.kind.steps and str(ask.kind.steps))
        assert ("guidance" in ask.params) == (ask.kind.guidance is not None)
        assert ask.headers["Accept"] == ask.kind.accept


# --- figures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1), (0.07, 7), (0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)]
)
def test_percentiles_are_values_that_came(share: float, expected: int) -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, share) == expected


def test_percentiles_of_few_values() -> None:
    assert percentile([3.0], 0.5) == percentile([3.0], 0.99) == 3.0
    assert percentile([1.0, 2.0], 0.5) == 1.0
    assert percentile([1.0, 2.0], 0.51) == 2.0
    for values, share in (([], 0.5), ([1.0], 0.0), ([1.0], 1.5)):
        with pytest.raises(ValueError, match="are needed"):
            percentile(values, share)


def outcome(latency: float, *, status: int | None = 200, rows: int = 4, **more: Any) -> Outcome:
    """Sent half a second late; the latency counts from the plan all the same."""
    ask = replace(ASK, rows=rows)
    return Outcome(ask=ask, planned=1.0, sent=1.5, done=1.0 + latency, status=status, **more)


def test_goodput_counts_answers_within_the_limit_only() -> None:
    outcomes = [
        *(outcome(1.0, rows=4, stages={"queue": 0.25}) for _ in range(3)),
        outcome(2.0, rows=25, stages={"queue": 0.75}),
        outcome(2.5, rows=25, stages={"queue": 0.5}),
        outcome(0.1, status=429, rows=25, problem="deadline-unreachable"),
        outcome(9.0, status=None, rows=8, problem="TimeoutError"),
        outcome(9.0, status=None, rows=8, problem="TimeoutError"),
    ]
    summary = summarize(outcomes, seconds=10.0, limit=2.0)
    assert summary.requests == 8
    assert summary.offered == pytest.approx(0.8)
    assert summary.offered_rows == pytest.approx((12 + 25 + 25 + 25 + 16) / 10)
    assert summary.answers == 5
    assert summary.late == 1
    assert summary.other == {"TimeoutError": 2, "429 deadline-unreachable": 1}
    assert summary.goodput == pytest.approx(0.4)
    assert summary.goodput_rows == pytest.approx((12 + 25) / 10)
    assert summary.latency is not None
    assert summary.queue is not None
    assert (summary.latency.p50, summary.latency.largest) == (1.0, 2.5)
    assert summary.latency.mean == pytest.approx((3 + 2 + 2.5) / 5)
    assert summary.latency_by_kind == {ASK.kind.name: summary.latency}
    assert summary.queue.mean == pytest.approx(0.4)
    assert summary.lag == spread([0.5] * 8)


def test_nothing_answered_is_a_result_too() -> None:
    summary = summarize([outcome(1.0, status=503)], seconds=1.0, limit=1.0)
    assert (summary.answers, summary.goodput, summary.latency) == (0, 0.0, None)
    assert summary.other == {"503": 1}


def test_stages_of_an_answer() -> None:
    header = "queue;dur=1.50, sample;dur=250.00"
    assert read_stages(header) == {"queue": 0.0015, "sample": 0.25}
    assert read_stages("") == {}


def totals(rows: int, ticks_of: dict[int, int], seconds: float) -> str:
    """A scrape after ticks of so many rows."""
    counts = [
        f'flowmo_batch_rows_bucket{{engine="decoder",le="{bound}.0"}} '
        f"{sum(ticks for size, ticks in ticks_of.items() if size <= bound)}.0"
        for bound in (1, 2, 4)
    ]
    ticks = sum(ticks_of.values())
    return "\n".join(
        [
            "# HELP flowmo_batch_rows Rows of a batch.",
            *counts,
            f'flowmo_batch_rows_bucket{{engine="decoder",le="+Inf"}} {ticks}.0',
            f'flowmo_batch_rows_sum{{engine="decoder"}} {rows}.0',
            f'flowmo_batch_rows_count{{engine="decoder"}} {ticks}.0',
            'flowmo_batch_rows_sum{engine="encoder"} 6.0',
            'flowmo_batch_padding_rows_total{engine="decoder"} 3.0',
            f"flowmo_step_duration_seconds_sum {seconds}",
            f"process_cpu_seconds_total {2 * seconds}",
        ]
    )


def test_what_was_computed_between_two_scrapes() -> None:
    before = read_totals(totals(7, {1: 1, 2: 3}, 1.0), at=100.0)
    after = read_totals(totals(7 + 2 + 20, {1: 1, 2: 4, 4: 5}, 2.5), at=102.0)
    computed = Computed.between(before, after)
    assert (computed.rows, computed.ticks, computed.padding) == (22, 6, 0)
    assert computed.rows_a_second == pytest.approx(11.0)
    assert computed.rows_a_tick == pytest.approx(22 / 6)
    assert computed.busy_seconds == pytest.approx(1.5)
    assert computed.server_cores == pytest.approx(1.5)
    assert computed.ticks_up_to == {2: 1, 4: 5}
    twice = computed.plus(computed)
    assert (twice.seconds, twice.rows, twice.ticks_up_to) == (4.0, 44, {2: 2, 4: 10})
    assert twice.server_cores == pytest.approx(1.5)
    with pytest.raises(KeyError):
        read_totals("flowmo_batch_rows_sum 1", at=0.0)


def test_work_of_all_processors() -> None:
    # Idle and iowait are no work; guests are in user time already.
    assert busy_ticks("cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3") == 171
    with pytest.raises(ValueError, match="intr"):
        busy_ticks("intr 1 2 3")


# --- sending ------------------------------------------------------------------------------------

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def offer(handler: Handler, arrivals: list[float], *, patience: float) -> list[Outcome]:
    """What becomes of requests to a server that does what the handler does."""

    async def run() -> list[Outcome]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, connect(f"http://127.0.0.1:{port}") as client:
            asks: list[Ask] = WORKLOAD.draw(len(arrivals), seed=0)
            return await open_loop(client, asks, arrivals, patience=patience)

    return asyncio.run(run())


def test_requests_are_sent_while_others_wait() -> None:
    arrivals = [0.0, 0.01, 0.02, 0.03, 0.3]
    everybody = asyncio.Event()
    inside = 0

    async def answers_when_all_are_there(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal inside
        await reader.readuntil(b"\r\n\r\n")
        inside += 1
        if inside == len(arrivals):
            everybody.set()
        # A sender that waited for an answer before it sends the next request would wait for ever.
        await everybody.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    outcomes = offer(answers_when_all_are_there, arrivals, patience=60.0)
    assert [outcome.status for outcome in outcomes] == [200] * len(arrivals)
    assert [outcome.planned for outcome in outcomes] == arrivals
    # None was sent before its time (to the clock's resolution), and the first waited for the last.
    assert all(outcome.lag > -1e-3 for outcome in outcomes)
    assert outcomes[0].latency >= outcomes[-1].planned


def test_every_request_is_accounted_for() -> None:
    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    outcomes = offer(never_answers, [0.0, 0.0, 0.05], patience=0.2)
    assert [(outcome.status, outcome.problem) for outcome in outcomes] == [
        (None, "TimeoutError")
    ] * 3


def test_a_server_that_is_not_there_is_accounted_for() -> None:
    async def run() -> list[Outcome]:
        async with connect("http://127.0.0.1:1") as client:
            return await open_loop(client, [ASK], [0.0])

    (only,) = asyncio.run(run())
    assert (only.status, only.problem) == (None, "ConnectError")
    assert not only.is_answer


def test_the_servers_word_for_a_refusal_is_kept() -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"code": "queue-full"}'
        writer.write(b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    (only,) = offer(refuses, [0.0], patience=60.0)
    assert (only.status, only.problem) == (httpx.codes.TOO_MANY_REQUESTS, "queue-full")


# --- a whole run --------------------------------------------------------------------------------

SMALL = Plan(
    unloaded_repeats=1,
    capacity_ramp=0.1,
    capacity_seconds=0.4,
    concurrency=6,
    ramp=0.2,
    points=(Point(load=0.3, seconds=0.5), Point(load=0.7, seconds=0.5, rounds=2)),
    overload_ramp=0.2,
    overload_seconds=0.6,
    saturation_rounds=2,
    saturation_ramp=0.1,
    saturation_seconds=0.3,
    table_batches=(1, 4),
    table_seconds=0.05,
    gateway_pairs=3,
)


@pytest.fixture(scope="module")
def report(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serving") / "new" / "nano"
    measure(checkpoint, out, SMALL, threads=1, seed=0)
    return out


@pytest.fixture(scope="module")
def figures(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def test_every_discipline_gets_the_same_requests(figures: dict[str, Any]) -> None:
    points = figures["sweep"]
    assert [(point["load"], point["discipline"]) for point in points] == [
        (load, discipline) for load in (0.3, 0.7) for discipline in ("step", "request", "single")
    ]
    for load in (0.3, 0.7):
        offered = {
            (point["summary"]["requests"], point["summary"]["offered_rows"])
            for point in points
            if point["load"] == load
        }
        assert len(offered) == 1


def test_every_request_of_the_sweep_is_answered_and_counted(figures: dict[str, Any]) -> None:
    for point in figures["sweep"]:
        summary, computed = point["summary"], point["computed"]
        assert summary["requests"] == summary["answers"] > 0
        assert summary["other"] == {}
        assert summary["offered"] == pytest.approx(
            summary["requests"] / summary["seconds"], rel=1e-5
        )
        # The rows that the server says it computed are those of the requests that were answered.
        assert point["wasted_rows"] == 0
        assert sum(computed["ticks_up_to"].values()) == computed["ticks"]
        latency = summary["latency"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["largest"]
        assert summary["goodput"] <= summary["offered"]


def test_one_request_at_a_time_has_the_rows_of_one(figures: dict[str, Any]) -> None:
    def most_rows(discipline: str) -> int:
        computed = [p["computed"] for p in figures["sweep"] if p["discipline"] == discipline]
        computed.append(figures["capacity"][discipline])
        return max(int(rows) for each in computed for rows in each["ticks_up_to"])

    assert most_rows("single") <= 2  # a guided step
    # How many rows are worth a batch is measured when a server starts; a busy machine finds few.
    assert most_rows("step") >= most_rows("single")


def test_every_request_of_the_overload_is_accounted_for(figures: dict[str, Any]) -> None:
    overload = figures["overload"]
    summary = overload["point"]["summary"]
    assert summary["requests"] == summary["answers"] + sum(summary["other"].values())
    assert overload["useful"] == pytest.approx(
        summary["goodput_rows"] / overload["capacity_rows"], rel=1e-4
    )
    assert overload["peak_bytes_before"] is None or overload["peak_bytes_before"] > 0


def test_the_offline_sampler_stands_beside_the_server(figures: dict[str, Any]) -> None:
    saturation = figures["saturation"]
    assert set(saturation["offline_table"]) == {"1", "4"}
    assert len(saturation["rounds"]) == 2
    for each in saturation["rounds"]:
        assert each["ratio"] == pytest.approx(each["server_rate"] / each["offline_rate"], rel=1e-4)
    gateway = figures["gateway"]
    assert gateway["added"]["p50"] < gateway["latency"]["p50"]
    assert gateway["direct"]["p50"] > 0


def test_goals_are_told_with_the_figures_they_stand_on(figures: dict[str, Any]) -> None:
    got = {goal["name"]: goal["got"] for goal in figures["goals"]}
    assert len(got) == 5
    assert got["saturated throughput / offline sampler at the same batch"] == pytest.approx(
        figures["saturation"]["ratio"]
    )
    p95 = {
        point["discipline"]: point["summary"]["latency"]["p95"]
        for point in figures["sweep"]
        if point["load"] == 0.7
    }
    assert got["p95 at 70% load, by step / by request"] == pytest.approx(
        p95["step"] / p95["request"], rel=1e-4
    )


def test_the_report_says_what_was_measured_and_where(figures: dict[str, Any]) -> None:
    assert figures["model"] == "nano"
    assert figures["threads"] == 1
    assert [kind["name"] for kind in figures["mix"]] == [kind.name for kind in MIX]
    assert figures["environment"]["cores"] >= 1


def test_the_plot_is_a_picture(report: Path) -> None:
    with Image.open(report.with_suffix(".png")) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200


def test_a_model_is_measured_once_and_a_preset_has_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[float] = []

    def measured(command: list[str]) -> None:
        options = dict(option.lstrip("-").split("=") for option in command)
        network = FlowMo.from_pretrained(options["checkpoint"])
        served.append(sum(float(p.detach().abs().sum()) for p in network.parameters()))
        Path(f"{options['out']}.json").write_text("{}", encoding="utf-8")

    monkeypatch.setattr(on_a_gpu, "measure", measured)
    checkpoint = Path(__file__).resolve().parents[2] / "checkpoints" / "tiny"
    on_a_gpu.main(["--out", str(tmp_path / "a"), "--models", str(checkpoint)])
    on_a_gpu.main(["--out", str(tmp_path / "a"), "--models", str(checkpoint)])
    assert len(served) == 1
    on_a_gpu.main(["--out", str(tmp_path / "b"), "--models", "tiny"])
    assert len(set(served)) == 2
