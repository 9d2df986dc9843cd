"""Faults and the soak in small: that they are injected, counted, and judged."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos import distribution, soak
from benchmarks.chaos.__main__ import main, table
from benchmarks.chaos.access_lines import AccessLines, access_lines
from benchmarks.chaos.checked_load import Answer, Answers, either
from benchmarks.chaos.descriptors import kinds_of, open_sockets, rises, role_of
from benchmarks.chaos.distribution import distribution_table, distributions
from benchmarks.chaos.faults import Outcome
from benchmarks.chaos.processes import resident_bytes, stopped, titles

RIGHT, OTHER = b"right", b"other"
KNOWN = {0: frozenset([RIGHT])}


def answer(ended: float, status: int | None, digest: bytes = RIGHT, first: str = "") -> Answer:
    return Answer(ended - 0.1, ended, 0, status, digest, first)


def test_requests_are_counted_by_their_ends() -> None:
    answers = Answers(
        [
            answer(0.5, 500),  # before the fault
            answer(1.5, 200),
            answer(2.0, 200, OTHER),
            answer(3.0, 429),
            answer(3.5, 503, first="503 unready"),
            answer(4.0, None, first="ReadError"),
            answer(6.0, 200, first="ReadError"),
        ]
    )
    tally = answers.tally(1.0, KNOWN)
    assert (tally.sent, tally.ok, tally.wrong, tally.refused) == (6, 2, 1, 1)
    assert (tally.failed, tally.lost, tally.first_failed) == (1, 1, 3)
    assert tally.how == {"503 unready": 1, "ReadError": 2}
    assert tally.longest_gap_seconds == pytest.approx(4.5)
    silent = Answers(answers.all, ended=20.0).tally(1.0, KNOWN)
    assert silent.longest_gap_seconds == pytest.approx(14.0)
    assert Answers([], ended=9.0).tally(1.0, KNOWN).longest_gap_seconds == pytest.approx(8.0)
    both = answers.tally(1.0, either(KNOWN, {0: frozenset([OTHER])}))
    assert (both.ok, both.wrong) == (3, 0)


def test_an_unmet_target_shows_in_the_table() -> None:
    tally = Answers([answer(1.0, None)]).tally(0.0, KNOWN)
    outcome = Outcome(
        fault="f", injected="i", target="t", met=False, tally=tally, recovery_seconds=2.0,
        memory_growth=0.0, note="why",
    )  # fmt: skip
    assert "| f | i | 1 | 0 | 0 | 1 | 0 | 0 | 2.0 s | 1.0 s | t | **no** (why) |" in table(
        [outcome]
    )


def outcome(fault: str, seconds: float | None, *, met: bool = True, first: str = "") -> Outcome:
    tally = Answers([answer(1.0, 200, first=first)], ended=1.0).tally(0.0, KNOWN)
    return Outcome(
        fault=fault, injected="i", target="t", met=met, tally=tally, recovery_seconds=seconds,
        memory_growth=0.0,
    )  # fmt: skip


def test_many_times_the_same_fault_are_one_distribution() -> None:
    outcomes = [
        outcome("killed", 3.0),
        outcome("killed", 9.0, met=False, first="500"),
        outcome("bodies", None),
        outcome("killed", 4.0, first="500"),
    ]
    killed, bodies = distributions(outcomes)
    assert (killed.times, killed.met, killed.requests) == (3, 2, 3)
    assert (killed.first_failed, killed.how) == (2, {"500": 2})
    assert killed.replaced is not None
    assert (killed.replaced.least, killed.replaced.median, killed.replaced.most) == (3.0, 4.0, 9.0)
    assert bodies.replaced is None
    assert (
        "| killed | 3 | 2 | 3 | 2 (500: 2) | 0 | 4.0 / 9.0 / 9.0 s | 1.0 / 1.0 / 1.0 s |"
        in distribution_table([killed, bodies])
    )
    (twenty,) = distributions([outcome("killed", float(seconds)) for seconds in range(1, 21)])
    assert twenty.replaced is not None
    assert (twenty.replaced.median, twenty.replaced.p95, twenty.replaced.most) == (10.5, 19, 20)


def test_reports_of_several_runs_become_one(tmp_path: Path) -> None:
    runs = {
        "first": [outcome("killed", 3.0), outcome("stop", 5.0)],
        "second": [outcome("killed", 9.0, met=False, first="500")],
    }
    for name, outcomes in runs.items():
        report = {"faults": [asdict(one) for one in outcomes], "load_average": [1, 2, 3]}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    out = tmp_path / "all"
    distribution.main([*(str(tmp_path / f"{name}.json") for name in runs), "--out", str(out)])
    together = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert [row["fault"] for row in together["faults"]] == ["killed", "stop", "killed"]
    assert [(row["fault"], row["times"], row["met"]) for row in together["distributions"]] == [
        ("killed", 2, 1),
        ("stop", 1, 1),
    ]
    assert together["runs"] == {name: {"load_average": [1, 2, 3]} for name in runs}
    assert "| killed | 2 | 1 | 2 | 1 (500: 1) | 0 |" in out.with_suffix(".md").read_text()


def test_descriptors_are_told_by_their_kind_and_those_that_rose_by_their_process(
    tmp_path: Path,
) -> None:
    before = {1: kinds_of(os.getpid(), open_sockets(os.getpid()))}
    with (tmp_path / "worker-a1b2c3d4e5f6-123.log").open("w"):
        after = {1: kinds_of(os.getpid(), open_sockets(os.getpid())), 2: before[1]}
    (row,) = rises([before, after], {1: "raylet"})
    assert row["process"] == "raylet"
    assert row["kinds"] == {"file worker-#-#.log": 1}
    assert row["after"] == row["before"] + 1
    assert role_of("ray::ServeController.listen\0") == "ServeController"
    replica = "ServeReplica:flowmo:decoder-nano"
    assert role_of(f"ray::{replica}.handle_request\0") == replica
    assert role_of(f"ray::SERVE_REPLICA::flowmo#decoder-nano#a1b2:{replica}.__init__") == replica
    assert role_of("/x/ray/core/src/ray/raylet/raylet\0--raylet_socket_name=a") == "raylet"


# --- flatness -----------------------------------------------------------------------------------


def test_what_rises_steadily_is_not_flat() -> None:
    at = np.arange(0.0, 600.0, 5.0)
    noise = np.random.default_rng(0).normal(0, 2e6, len(at))
    flat, leak = 500e6 + noise, 500e6 + 2e5 * at + noise
    assert soak.flatness("resident_bytes", list(at), list(flat)).flat
    judged = soak.flatness("resident_bytes", list(at), list(leak))
    assert not judged.flat
    # 0.2 MB a second over the second half.
    assert judged.rise == pytest.approx(2e5 * (at[-1] - at[len(at) // 2]), rel=0.05)


def test_a_warm_up_a_peak_and_a_step_down_are_flat() -> None:
    at = np.arange(0.0, 600.0, 5.0)
    warm = 500e6 + 300e6 * np.minimum(at / 100, 1)
    warm[90] *= 3
    assert soak.flatness("resident_bytes", list(at), list(warm)).flat
    assert soak.flatness("descriptors", list(at), [50.0] * 70 + [20.0] * 50).flat


def test_not_one_series_more_is_allowed() -> None:
    at = [float(second) for second in range(20)]
    assert soak.flatness("series", at, [400.0] * 20).flat
    assert not soak.flatness("series", at, [400.0 + second / 5 for second in range(20)]).flat


def test_a_part_that_comes_late_is_judged_as_nothing_before() -> None:
    readings = [{"threads": 3.0}] * 10 + [{"threads": 3.0, "resident_bytes of x": 1e9}] * 10
    judged = {one.quantity: one for one in soak.judge([float(n) for n in range(20)], readings)}
    assert judged["threads"].flat
    assert judged["resident_bytes of x"].median == 1e9
    leaks = [{"resident_bytes of x": 1e6 * n} for n in range(20)]
    (leak,) = soak.judge([float(n) for n in range(20)], leaks)
    assert leak.allowed == 4 << 20  # as for the sum of all
    assert not leak.flat


def test_each_answer_has_its_one_access_line_or_is_told(tmp_path: Path) -> None:
    def line(name: str, status: int = 200, logger: str = "flowmo.access") -> str:
        return json.dumps({"logger": logger, "request_id": name, "status": status})

    log = tmp_path / "log"
    log.write_text("\n".join([line("a"), line("b", 404), line("a", logger="other"), line("z")]))
    good = access_lines(log, {"a": 200, "b": 404})
    assert good == AccessLines(
        lines=4, not_json=0, answered=2, found=2, missing=0, twice=0, contradicted=0
    )
    assert good.complete()
    log.write_text("\n".join([line("a"), line("a"), line("b", 500), "Traceback:", "3", "{}"]))
    bad = access_lines(log, {"a": 200, "b": 404, "c": 200})
    assert bad == AccessLines(
        lines=6, not_json=2, answered=3, found=0, missing=1, twice=1, contradicted=1
    )
    assert not bad.complete(may_miss=9)
    log.write_text(line("a"))
    assert not access_lines(log, {"a": 200, "c": 200}).complete()
    assert access_lines(log, {"a": 200, "c": 200}).complete(may_miss=1)


# --- processes ----------------------------------------------------------------------------------


def test_only_descendants_are_found() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()", "a mark"], stdin=subprocess.PIPE)
    try:
        ours = dict(titles(os.getpid()))
        assert "a mark" in ours[child.pid]
        assert os.getppid() not in ours
        assert not dict(titles(child.pid)).keys() - {child.pid}
        assert resident_bytes([child.pid]) > 1 << 20
        assert not stopped(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        child.send_signal(signal.SIGCONT)
    finally:
        child.communicate()
    assert resident_bytes([child.pid]) == 0


# --- real ones ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_gateway_is_killed_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    out = tmp_path / "faults"
    names = "gateway,bodies,stop"
    status = main(["--faults", names, "--before", "1", "--after", "1", "--out", str(out)])
    report = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert [row["fault"] for row in report["faults"] if not row["met"]] == []
    assert status == 0
    killed = report["faults"][0]
    assert killed["tally"]["sent"] == killed["tally"]["ok"] > 4
    assert killed["recovery_seconds"] > 0
    lines = report["access_lines"]["one"]
    assert lines["complete"]
    assert lines["answered"] - 4 <= lines["found"] > 4  # four clients lost what a gateway had


def test_a_short_soak_counts_every_kind_of_request(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    soak.main(["--minutes", "0.15", "--interval", "1", "--clients", "2", "--out", str(out)])
    report = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert not [end for end in report["ends"] if end.startswith("UNEXPECTED")]
    assert len({end.partition(":")[0] for end in report["ends"]}) == 9
    lines = report["access_lines"]
    assert lines["found"] == lines["answered"] > 9
    assert lines["not_json"] == 0
    assert {row["quantity"] for row in report["flatness"]} == {
        "resident_bytes", "descriptors", "threads", "series",
    }  # fmt: skip
    assert out.with_suffix(".png").is_file()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["--kill-every", "5"], "--kill-every needs --ray"),
        (["--minutes", "0.1"], "room for eight readings"),
    ],
)
def test_soaks_that_say_nothing_are_refused(
    command: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        soak.main(command)
    assert complaint in capsys.readouterr().err


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--faults", "decoder,fire"])
    assert "no fault fire; there are encoder, decoder" in capsys.readouterr().err
