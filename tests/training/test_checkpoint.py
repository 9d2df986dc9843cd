"""Checkpoints on disk: whole or absent, the latest few, no pickles."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.errors import CheckpointError
from training.checkpoint import checkpoint_folders, load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.files import replacing_folder
from training.generators import Generators
from training.state import TrainState

CPU = torch.device("cpu")


def _save(run: Path, step: int, *, keep: int = 2) -> Path:
    return save_checkpoint(
        run,
        tensors={"model.x": torch.full((2,), float(step)), "generator.y": torch.tensor([1, 2])},
        progress={"step": step},
        config={"steps": 9},
        keep=keep,
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(_save(tmp_path, 3))
    assert checkpoint.progress == {"step": 3}
    assert checkpoint.config == {"steps": 9}
    assert torch.equal(checkpoint.tensors["model.x"], torch.tensor([3.0, 3.0]))
    assert {p.suffix for p in checkpoint.path.iterdir()} == {".safetensors", ".json"}


def test_only_the_latest_stay_in_order_of_steps(tmp_path: Path) -> None:
    for step in (5, 100, 20_000_000_000):
        _save(tmp_path, step)
    names = [path.name for path in checkpoint_folders(tmp_path)]
    assert names == ["step_000000100", "step_20000000000"]


def test_a_half_written_checkpoint_does_not_count(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".step_000000002.new").mkdir()
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step_000000001"]


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "export"
    with replacing_folder(target) as folder:
        (folder / "a").write_text("old")

    def fail() -> None:
        with replacing_folder(target) as folder:
            (folder / "a").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert (target / "a").read_text() == "old"
    with replacing_folder(target) as folder:
        (folder / "b").write_text("newer")
    assert [path.name for path in tmp_path.rglob("*")] == ["export", "b"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
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
    with pytest.raises(CheckpointError, match="another checkpoint format than 1"):
        load_checkpoint(path)


def test_a_state_restores_generators_and_refuses_other_shapes(
    run_config: Callable[..., TrainConfig],
) -> None:
    config = run_config()
    state = TrainState.fresh(config, CPU)
    torch.rand(5, generator=state.generators.noise)
    tensors = {name: tensor.clone() for name, tensor in state.tensors().items()}
    expected = torch.rand(5, generator=state.generators.noise)
    fresh = TrainState.fresh(run_config(seed=9), CPU)
    fresh.restore(tensors, state.record())
    assert torch.equal(torch.rand(5, generator=fresh.generators.noise), expected)

    name = "model.encoder.img_in.weight"
    with pytest.raises(CheckpointError, match=r"model.encoder.img_in.weight is \[3\]"):
        fresh.restore(tensors | {name: torch.zeros(3)}, state.record())
    del tensors[name]
    with pytest.raises(CheckpointError, match=r"model\.encoder\.img_in\.weight is missing"):
        fresh.restore(tensors, state.record())


def test_a_generator_of_another_kind_of_device_is_explained() -> None:
    generators = Generators.seeded(0, CPU)
    states = generators.state() | {"time": torch.zeros(16, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="time generator does not fit a cpu generator"):
        generators.load_state(states)
