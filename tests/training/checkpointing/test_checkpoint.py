"""Checkpoints on disk: whole or absent, the latest few, no pickles."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.training.checkpointing.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    checkpoint_folders,
    load_checkpoint,
)
from flowmo.training.checkpointing.resume import check_alike
from flowmo.training.checkpointing.retention import superfluous
from flowmo.training.config import TrainConfig
from flowmo.training.loop.generators import Generators
from flowmo.training.loop.mesh import Mesh
from flowmo.training.loop.state import TrainState
from flowmo.training.tasks.flow import GENERATORS
from flowmo.training.tasks.pretrain import PretrainTask
from tests.training.processes import log_of, tensors_of
from tests.training.students import quiet

CPU = torch.device("cpu")
MESH = Mesh(device=CPU)
SHARD = "shard-00001-model-00001-of-00001.safetensors"


def _save(run: Path, step: int) -> Path:
    with closing(CheckpointWriter(run, MESH)) as writer:
        return writer.save(
            {"model.x": torch.full((2,), float(step)), "generator.y": torch.tensor([1, 2])},
            progress={"step": step},
            config={"steps": 9},
        )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(_save(tmp_path, 3))
    assert checkpoint.progress == {"step": 3}
    assert checkpoint.config == {"steps": 9}
    assert torch.equal(checkpoint.tensors()["model.x"], torch.tensor([3.0, 3.0]))
    assert {p.suffix for p in checkpoint.path.iterdir()} == {".safetensors", ".json"}


def test_checkpoints_are_in_order_of_steps(tmp_path: Path) -> None:
    for step in (100, 20_000_000_000, 5):
        _save(tmp_path, step)
    names = [path.name for path in checkpoint_folders(tmp_path)]
    assert names == ["step_000000005", "step_000000100", "step_20000000000"]


@pytest.mark.parametrize(
    ("last", "every", "best", "gone"),
    [
        (2, 0, None, [10, 20, 30]),
        (1, 20, None, [10, 30]),
        (1, 0, 25, [10, 30, 40]),
        (1, 0, 5, [10, 20, 30, 40]),
        (9, 0, None, []),
    ],
)
def test_checkpoints_stay_by_rule(last: int, every: int, best: int | None, gone: list[int]) -> None:
    assert superfluous([30, 10, 50, 20, 40], last=last, every=every, best=best) == gone


def test_tensors_may_change_as_soon_as_a_save_has_begun(tmp_path: Path) -> None:
    weights = torch.zeros(2_000_000)
    with closing(CheckpointWriter(tmp_path, MESH)) as writer:
        path = writer.save({"model.x": weights}, progress={"step": 1}, config={})
        weights.fill_(7.0)
    assert not load_checkpoint(path).tensors()["model.x"].any()


def test_a_failure_on_the_writing_thread_is_raised_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CheckpointWriter(tmp_path, MESH)
    writer.save({"model.x": torch.zeros(2)}, progress={"step": 1}, config={})
    writer.wait()

    def full(*_: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("flowmo.training.checkpointing.checkpoint.publish_folder", full)
    writer.save({"model.x": torch.zeros(2)}, progress={"step": 2}, config={})
    with pytest.raises(CheckpointError, match="could not be written: disk full"):
        writer.save({"model.x": torch.zeros(2)}, progress={"step": 3}, config={})
    writer.close()
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step_000000001"]


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/.step_000000002.new").mkdir(parents=True)
    _save(tmp_path, 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000000001"]


def test_folders_of_the_first_format_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/step_000000004"
    path.mkdir(parents=True)
    save_file({"model.x": torch.ones(3), "step": torch.tensor(4.0)}, path / "state.safetensors")
    record = {"format": 1, "progress": {"step": 4}, "config": {}}
    (path / "state.json").write_text(json.dumps(record))
    checkpoint = load_checkpoint(path)
    assert checkpoint.progress == {"step": 4}
    assert checkpoint.tensors()["model.x"].tolist() == [1, 1, 1]
    assert checkpoint.tensors()["step"].item() == 4


def test_a_half_written_checkpoint_does_not_count(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".step_000000002.new").mkdir()
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step_000000001"]


@pytest.mark.parametrize("file", [SHARD, "state.json"])
def test_damage_is_explained(tmp_path: Path, file: str) -> None:
    path = _save(tmp_path, 1)
    (path / file).write_bytes((path / file).read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"no readable checkpoint.*fall back to an older"):
        load_checkpoint(path)
    (path / file).unlink()
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_checkpoint(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    (path / "state.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="another checkpoint format than 2"):
        load_checkpoint(path)


def test_a_state_restores_generators_and_refuses_other_shapes(
    run_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = run_config()
    state = TrainState.fresh(PretrainTask(config, CPU), MESH)
    torch.rand(5, generator=state.generators["noise"])
    saved = state.tensors()
    checkpoint = _checkpoint(tmp_path / "whole", saved, state)
    expected = torch.rand(5, generator=state.generators["noise"])
    fresh = TrainState.fresh(PretrainTask(run_config(seed=9), CPU), MESH)
    fresh.restore(checkpoint)
    assert torch.equal(torch.rand(5, generator=fresh.generators["noise"]), expected)
    assert all(torch.equal(fresh.tensors()[n], t) for n, t in saved.items() if "model" in n)

    name = "model.encoder.img_in.weight"
    with pytest.raises(CheckpointError, match=r"model.encoder.img_in.weight is \[3\]"):
        fresh.restore(_checkpoint(tmp_path / "a", saved | {name: torch.zeros(3)}, state))
    del saved[name]
    with pytest.raises(CheckpointError, match=r"model\.encoder\.img_in\.weight is missing"):
        fresh.restore(_checkpoint(tmp_path / "b", saved, state))


def _checkpoint(run: Path, tensors: dict[str, torch.Tensor], state: TrainState) -> Checkpoint:
    with closing(CheckpointWriter(run, MESH)) as writer:
        path = writer.save(tensors, progress=state.record(), config={})
    return load_checkpoint(path)


def test_a_generator_of_another_kind_of_device_is_explained() -> None:
    generators = Generators.seeded(0, CPU, GENERATORS)
    states = generators.state() | {"time": torch.zeros(16, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="time generator does not fit a cpu generator"):
        generators.load_state(states)


def test_a_run_of_the_first_format_goes_on_bitwise(
    run_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    straight = run_config(steps=4, output=str(tmp_path / "straight"))
    quiet(straight)
    old = replace(straight, output=str(tmp_path / "old"))
    path = quiet(replace(old, steps=2)).checkpoint
    tensors = load_checkpoint(path).tensors()
    record = json.loads((path / "state.json").read_text())
    (path / SHARD).unlink()
    save_file(tensors, path / "state.safetensors")
    first = {"format": 1, "progress": record["progress"], "config": record["config"]}
    (path / "state.json").write_text(json.dumps(first))
    quiet(old, resume=True)
    one, other = tensors_of(old), tensors_of(straight)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_processes_that_see_different_folders_are_told() -> None:
    check_alike([("step_000000004", 10)] * 3)
    with pytest.raises(ConfigError, match="the run folder must be one that all of them see"):
        check_alike([("step_000000004", 10), (None, 10)])
    with pytest.raises(ConfigError, match=r"different numbers of images, \[10, 9\]"):
        check_alike([(None, 10), (None, 9)])


def test_a_run_ends_soon_after_a_checkpoint_could_not_be_written(
    run_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Path) -> None:
        raise OSError("disk full")

    # The only checkpoint of so many steps: nothing else would wait for it.
    config = run_config(steps=599, checkpoint_interval=300, log_interval=1)
    quiet(replace(config, steps=299))
    monkeypatch.setattr("flowmo.training.checkpointing.checkpoint.publish_folder", full)
    with pytest.raises(CheckpointError, match="could not be written: disk full"):
        quiet(config, resume=True)
    assert 300 <= log_of(config)[-1]["step"] < 599
