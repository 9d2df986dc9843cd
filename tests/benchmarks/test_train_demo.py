"""The demo run, at tiny size: two calls, one run, results that fit back through a small door."""

import json
from pathlib import Path

from benchmarks.gpu.train_demo import demo_config, main, split_file
from flowmo.photographs import photograph_paths

TINY = [
    "model.image_size=32",
    "model.code_length=4",
    "model.encoder.depth=1",
    "model.decoder.depth=1",
    "model.sampler.steps=2",
    "sample_count=2",
    "batch_size=2",
    "steps=4",
    "log_interval=1",
    "precision=float32",
]


def call(tmp_path: Path, *, call_minutes: float) -> Path:
    arguments = ["--data", str(photograph_paths()[0].parent)]
    arguments += ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    arguments += ["--minutes", "5", "--call-minutes", str(call_minutes), "--part-mib", "0.5"]
    for assignment in TINY:
        arguments += ["--set", assignment]
    main(arguments)
    return tmp_path / "out"


def test_a_call_that_ends_early_is_continued_by_the_next(tmp_path: Path) -> None:
    out = call(tmp_path, call_minutes=0.0)
    state = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert state["stopped"] == "interrupted"
    assert not (out / "reconstruction.json").exists()

    call(tmp_path, call_minutes=5)
    state = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (state["stopped"], state["step"]) == ("finished", 4)
    assert state["environment"]["torch"]
    assert len((out / "log.jsonl").read_text(encoding="utf-8").splitlines()) >= 4
    for name in ("reconstruction.json", "reconstruction.png", "loss.png", "config.json"):
        assert (out / name).stat().st_size > 0
    parts = sorted(out.glob("model.safetensors.*"))
    assert len(parts) > 1
    whole = (tmp_path / "run" / "export" / "model.safetensors").read_bytes()
    assert b"".join(part.read_bytes() for part in parts) == whole


def test_parts_are_numbered_in_order(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(10)))
    parts = split_file(tmp_path / "file", tmp_path, 4)
    assert [p.name for p in parts] == ["file.000", "file.001", "file.002"]
    assert [len(p.read_bytes()) for p in parts] == [4, 4, 2]


def test_a_gpu_gets_whole_batches_and_decoding_workers(tmp_path: Path) -> None:
    on_gpu, on_cpu = (
        demo_config(["x.tar"], tmp_path, minutes=3, gpu=gpu, assignments=[])
        for gpu in (True, False)
    )
    assert on_gpu.batch_size >= 16 * on_cpu.batch_size
    assert on_gpu.data.workers > 0 == on_cpu.data.workers
    assert (on_gpu.compile, on_cpu.compile) == (True, False)
    for config in (on_gpu, on_cpu):
        assert config.max_minutes == 3
        assert config.optimizer.anneal_over_budget
