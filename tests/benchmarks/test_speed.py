"""The speed benchmarks: their timing in closed form, and whole runs in small."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import attention, cuda_check, profile_step, speed, tensorrt
from benchmarks.speed.command import run
from benchmarks.speed.harness import WARM_RUNS, Timing, in_turns
from benchmarks.speed.variants import PLAIN, names
from flowmo.model.config import FlowMoConfig
from flowmo.model.flowmo import FlowMo
from tests.service.fixtures import save_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("checkpoint"), seed=2)


def records_of(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(path.read_text())["records"]
    return records


def test_ways_are_timed_in_turns_and_summed_up() -> None:
    now = [0.0]
    calls: list[str] = []

    def way(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            now[0] += seconds

        return call

    ways = {"a": way("a", 1.0), "b": way("b", 2.0), "c": way("c", 4.0)}
    timings = in_turns(ways, rounds=3, clock=lambda: now[0])
    warm = [name for name in ways for _ in range(WARM_RUNS)]
    assert calls == [*warm, *"abc", *"bca", *"cab"]
    assert {name: timing.median for name, timing in timings.items()} == {"a": 1, "b": 2, "c": 4}
    with pytest.raises(ValueError, match="at least one round"):
        in_turns(ways, rounds=0)


def test_the_spread_leaves_out_a_tenth_at_each_end() -> None:
    timing = Timing.of([float(i) for i in range(21)])
    assert (timing.median, timing.low, timing.high, timing.rounds) == (10.0, 2.0, 18.0, 21)


def outside(config: FlowMoConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """An outside implementation, as a reader of the documentation would write one."""
    network = FlowMo(config)
    network.load_state_dict(dict(state))

    @torch.inference_mode()
    def step(x: Tensor, times: list[float], condition: Tensor) -> Tensor:
        return network.velocity(x, torch.tensor(times), condition)

    return {"decoder": step}


def test_an_outside_implementation_is_measured_beside_ours(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = f"{__name__}:outside"
    command = [str(checkpoint), f"--out={tmp_path / 'report'}", "--batches=1,3", "--rounds=2"]
    command += ["--variants=onnxruntime float32,serving bf16", f"--baseline={baseline}"]
    run("decoder", [*command, "--device=cpu"])
    records = records_of(tmp_path / "report.json")
    assert [record["variant"] for record in records[:4]] == [
        PLAIN,
        "onnxruntime float32",
        "serving bf16",
        baseline,
    ]
    assert {record["rows"] for record in records} == {1, 3}
    errors = {record["variant"]: record["relative_error"] for record in records}
    assert errors[PLAIN] == errors[baseline] == 0.0
    assert 0 < errors["onnxruntime float32"] < 1e-5 < errors["serving bf16"] < 0.1
    for record in records:
        assert record["low"] <= record["median"] <= record["high"]
        assert record["seconds_a_picture"] * record["rows"] == pytest.approx(
            record["median"] * record["forwards_a_picture"], rel=1e-4
        )
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "| decoder | 3 | serving bf16 |" in capsys.readouterr().out


def test_what_is_not_to_be_had_is_left_out_and_told(checkpoint: Path, tmp_path: Path) -> None:
    command = [str(checkpoint), f"--out={tmp_path / 'report'}", "--batches=1", "--rounds=1"]
    run("encoder", [*command, "--device=cpu", "--variants=onnxruntime bf16,serving bf16"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["left_out"]) == ["onnxruntime bf16"]
    assert "bfloat16 products" in report["left_out"]["onnxruntime bf16"]
    bf16 = report["records"][-1]
    assert 0 <= bf16["bits_that_differ"] < 0.1
    assert names(cuda=True)[0] == names(cuda=False)[0] == PLAIN
    with pytest.raises(ValueError, match="unknown variant"):
        run("encoder", [*command, "--device=cpu", "--variants=fastest float32"])


# --- the scripts of the GPU list, at tiny size ----------------------------------------------------


def test_cuda_check(checkpoint: Path, tmp_path: Path) -> None:
    command = ["--out", str(tmp_path), "--models", str(checkpoint), "--device=cpu", "--skip-tests"]
    assert cuda_check.main(command) == 0
    report = json.loads((tmp_path / "cuda_check.json").read_text())
    assert len(report["parity"]) == 6  # three files by two forms
    assert all(entry["error"] <= entry["tolerance"] for entry in report["parity"])
    assert {entry["half"] for entry in report["precision"]} == {"encoder", "decoder"}


def test_gpu_speed_measures_what_is_missing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["--out", str(tmp_path), "--models", str(checkpoint), "--batches=1,2"]
    command += ["--encode-batches=1", "--decode-batches=1", "--rounds=1", "--decode-rounds=1"]
    whole = "compiled bf16 without compiled with whole-decode"
    command += [
        f"--variants=plain float32,serving bf16,tensorrt bf16,{whole}",
        f"--baseline={__name__}:outside",
    ]
    speed.main(command)
    reports = {
        report["variant"]: report
        for report in (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    }
    assert set(reports) == {PLAIN, "serving bf16", "tensorrt bf16", whole, f"{__name__}:outside"}
    assert "CUDA device" in reports["tensorrt bf16"]["left_out"]
    for name, most in ((PLAIN, 1e-5), ("serving bf16", 0.1), (whole, 0.1)):
        steps = [(record["half"], record["rows"]) for record in reports[name]["steps"]]
        assert steps == [("decoder", 1), ("decoder", 2), ("encoder", 1)]
        assert all(record["relative_error"] <= most for record in reports[name]["steps"])
        (decoded,) = reports[name]["decodes"]
        assert (decoded["steps"], decoded["forwards"]) == (25, 31)
        assert decoded["whole"] is (name == whole)
        assert decoded["images_a_second"] == pytest.approx(1 / decoded["median"], rel=1e-4)
    kept = tmp_path / f"speed-{checkpoint.name}-serving-bf16.json"
    before = kept.stat().st_mtime_ns
    (tmp_path / f"speed-{checkpoint.name}-plain-float32.json").unlink()
    speed.main(command)
    assert kept.stat().st_mtime_ns == before
    assert len(list(tmp_path.glob("*.json"))) == 5


def test_the_variants_that_decide_are_measured_first() -> None:
    order = speed.in_order(names(cuda=True))
    assert order[:2] == ["compiled bf16", "compiled bf16 without compiled with all"]
    ours = "compiled bf16 without compiled with all+fp8-rowwise"
    assert order.index(ours) < order.index("compiled-fp8 bf16") < order.index("serving bf16")
    assert sorted(order) == sorted(names(cuda=True))


def test_attention(tmp_path: Path) -> None:
    attention.main(["--out", str(tmp_path), "--tokens=32", "--rows=1,2", "--rounds=1"])
    records = records_of(tmp_path / "attention.json")
    assert {record["rows"] for record in records} == {1, 2}
    assert all(record["largest_error"] < 0.1 for record in records)


def test_tensorrt(checkpoint: Path, tmp_path: Path) -> None:
    command = [str(checkpoint), "--out", str(tmp_path), "--max-batch=2", "--rounds=1"]
    tensorrt.main([*command, "--attention=fused", "--architectures", "sm89", "sm10"])
    ada, unknown = records_of(tmp_path / "tensorrt.json")
    for half in ("encoder", "decoder"):
        assert ada[half]["report"]["attention_fused"] == "all"
        assert ada[half]["bytes"] > 1000
    assert "does not build for sm10" in unknown["problem"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own use of it
@pytest.mark.slow  # it compiles what test_cuda_check does
def test_profile_step(checkpoint: Path, tmp_path: Path) -> None:
    profile_step.main([str(checkpoint), "--out", str(tmp_path), "--rows=2", "--steps=1"])
    (path,) = tmp_path.glob("profile-*-2.txt")
    assert "Self CPU" in path.read_text()
