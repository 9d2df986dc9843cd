"""The speed of training, in small."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import train_speed
from flowmo.model.config import preset
from flowmo.training.config import TrainConfig

SMALL = replace(
    preset("tiny"),
    encoder=replace(preset("tiny").encoder, depth=1),
    decoder=replace(preset("tiny").decoder, depth=1),
)


def test_every_variant_is_measured_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str, int]] = []

    def timed(config: TrainConfig, processes: int, threads: int) -> float:
        asked.append((processes, config.parallel, config.batch_size))
        return {"auto": 10.0, "ddp": 40.0, "fsdp": 20.0}[config.parallel]

    monkeypatch.setattr(train_speed, "images_per_second", timed)
    out = tmp_path / "out.json"
    train_speed.main(
        ["tiny", "--processes", "4", "--share", "3", "--rounds", "2", "--out", str(out)]
    )
    assert asked == [(1, "auto", 3), (4, "ddp", 12), (4, "fsdp", 12)] * 2
    rows = json.loads(out.read_text())["rows"]
    assert [(row["parallel"], row["efficiency"]) for row in rows] == [
        ("none", 1.0),
        ("ddp", 1.0),
        ("fsdp", 0.5),
    ]


def test_processes_really_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_speed, "preset", lambda _: SMALL)
    out = tmp_path / "out.json"
    options = ["--processes", "1", "--share", "1", "--steps", "2", "--rounds", "1"]
    train_speed.main(["small", *options, "--device", "cpu", "--out", str(out)])
    assert all(row["images_per_second"] > 0 for row in json.loads(out.read_text())["rows"])
