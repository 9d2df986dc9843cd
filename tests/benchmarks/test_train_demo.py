"""The demo run, at tiny size: two calls, two stages, results that fit through a small door."""

import json
import tarfile
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.gpu.train_demo import RECIPES, main, split_file, stage_config
from flowmo.model.flowmo import FlowMo
from flowmo.photographs import photograph_paths
from flowmo.training.perceptual.fetch import VGG_EDGE
from flowmo.training.perceptual.losses import feature_distance

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
    "validation.interval=2",
    "precision=float32",
]


def call(tmp_path: Path, *, call_minutes: float) -> Path:
    networks = tmp_path / "networks"
    networks.mkdir(exist_ok=True)
    save_file(feature_distance("vgg-edge", "random").features.state_dict(), networks / VGG_EDGE)
    arguments = ["--data", str(photograph_paths()[0].parent), "--networks", str(networks)]
    arguments += ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    arguments += ["--minutes", "5,5", "--call-minutes", str(call_minutes), "--part-mib", "0.5"]
    for assignment in TINY:
        arguments += ["--set", assignment]
    main(arguments)
    return tmp_path / "out"


def test_a_call_that_ends_early_is_continued_by_the_next(tmp_path: Path) -> None:
    out = call(tmp_path, call_minutes=0.0)
    state = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert state["stages"]["tiny-pretrain"]["stopped"] == "interrupted"
    assert [path.name for path in out.iterdir()] == ["run.json"]

    call(tmp_path, call_minutes=5)
    state = json.loads((out / "run.json").read_text(encoding="utf-8"))
    ended = {stage: (run["stopped"], run["step"]) for stage, run in state["stages"].items()}
    assert ended == dict.fromkeys(RECIPES, ("finished", 4))
    assert state["environment"]["torch"]
    with tarfile.open(out / "results.tar") as tar:
        names = tar.getnames()
    for stage in RECIPES:
        for name in ("reconstruction.json", "reconstruction.png", "log.jsonl", "config.json"):
            assert f"results/{stage}/{name}" in names
    assert all(run["held_out_psnr"] > 0 for run in state["stages"].values())
    assert state["chosen"] == "tiny-sharp"
    parts = sorted(out.glob("model.safetensors.*"))
    assert len(parts) > 1
    (tmp_path / "joined").mkdir()
    whole = b"".join(part.read_bytes() for part in parts)
    (tmp_path / "joined/model.safetensors").write_bytes(whole)
    (tmp_path / "joined/config.json").write_bytes((out / "config.json").read_bytes())
    folder = tmp_path / "run" / state["chosen"] / state["stages"][state["chosen"]]["best"]
    expected = FlowMo.from_pretrained(folder)
    assert FlowMo.from_pretrained(tmp_path / "joined").fingerprint() == expected.fingerprint()
    assert (expected.config.prediction, expected.config.head) == ("image", (64, 32, 16))


def test_parts_are_numbered_in_order(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(10)))
    parts = split_file(tmp_path / "file", tmp_path, 4)
    assert [p.name for p in parts] == ["file.000", "file.001", "file.002"]
    assert [len(p.read_bytes()) for p in parts] == [4, 4, 2]


def test_a_gpu_gets_whole_batches_and_decoding_workers(tmp_path: Path) -> None:
    for name in RECIPES:
        on_gpu, on_cpu = (
            stage_config(name, ["x.tar"], tmp_path, minutes=3, gpu=gpu, assignments=[])
            for gpu in (True, False)
        )
        assert on_gpu.batch_size >= 16 * on_cpu.batch_size
        assert on_gpu.data.workers > 0 == on_cpu.data.workers
        assert (on_gpu.compile, on_cpu.compile) == (True, False)
        for config in (on_gpu, on_cpu):
            assert config.max_minutes == 3
            assert config.optimizer.anneal_over_budget
