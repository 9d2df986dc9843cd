"""A task of another model and batch through the real trainer: it learns, dies and resumes."""

import io
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.training.checkpointing.checkpoint import checkpoint_folders
from flowmo.training.config import (
    AnyTrainConfig,
    DataConfig,
    LossWeights,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)
from flowmo.training.loop.trainer import TrainResult, train
from flowmo.training.overrides import override
from flowmo.training.tasks.registry import start_from
from tests.training.processes import Processes, log_of, tensors_of
from tests.training.tasks import counting
from tests.training.tasks.counting import TableConfig, load_table


def _config(output: Path) -> TrainConfig[TableConfig]:
    return TrainConfig(
        task="table",
        model=TableConfig(labels=5, tokens=12),
        optimizer=OptimizerConfig(learning_rate=0.1, grad_clip=None),
        validation=ValidationConfig(interval=10, metric="accuracy"),
        output=str(output),
        steps=40,
        batch_size=8,
        accumulation=2,
        precision="float32",
        device="cpu",
        ema_ramp=True,
        log_interval=5,
        sample_interval=20,
        checkpoint_interval=5,
        keep_checkpoints=2,
        tensorboard=False,
    )


def _train(config: TrainConfig[TableConfig], *, resume: bool = False) -> tuple[TrainResult, str]:
    console = Console(file=io.StringIO(), width=300)
    result = train(config, resume=resume, console=console)
    return result, console.file.getvalue()  # type: ignore[attr-defined]


def test_another_model_learns_and_is_exported_under_its_own_type(tmp_path: Path) -> None:
    config = _config(tmp_path / "run")
    result, text = _train(config)
    assert (result.stopped, result.best_score) == ("finished", 1.0)
    assert result.sample_values == {"sample_accuracy": 1.0}
    assert not (tmp_path / "run" / "samples").exists()  # there is nothing to look at
    model = load_table(result.export)
    assert model.logits.argmax(1).tolist() == [1, 3, 5, 7, 9]
    losses = [line["cross_entropy"] for line in log_of(config) if "cross_entropy" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert "a table of tokens: table, 0.00 M parameters; 5 images; cpu" in text
    assert "100% of the tokens are right" in text


def test_another_model_is_killed_and_goes_on_bitwise(tmp_path: Path) -> None:
    straight, killed = _config(tmp_path / "straight"), _config(tmp_path / "killed")
    _train(straight)
    # In the middle of writing the second checkpoint and of the best model, somewhere before.
    for fatal in (25, 40):
        processes = Processes(
            [killed], tmp_path / str(fatal), size=1, fatal=fatal, modules=[counting.__name__]
        )
        assert processes.wait() == [-signal.SIGKILL], processes.output()
    before = checkpoint_folders(Path(killed.output))
    assert before
    assert before[-1].name < "step_000000040"
    result, text = _train(killed, resume=True)
    assert "resumed from" in text
    assert result.step == 40
    assert log_of(killed) == log_of(straight)
    one, other = tensors_of(killed), tensors_of(straight)
    assert one.keys() == other.keys()
    assert {"model.logits", "ema.logits", "generator.hiding"} <= one.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)


def test_two_processes_train_another_model_as_one_does(tmp_path: Path) -> None:
    alone, together = _config(tmp_path / "alone"), _config(tmp_path / "together")
    _train(replace(alone, steps=5))
    processes = Processes(
        [replace(together, steps=5)], tmp_path / "logs", modules=[counting.__name__]
    )
    assert processes.finish() == ["finished 5"]
    one, other = tensors_of(alone), tensors_of(together)
    assert one["model.logits"].allclose(other["model.logits"], atol=1e-6)


def test_its_config_is_read_back_and_changed_by_its_own_fields(tmp_path: Path) -> None:
    config = _config(tmp_path)
    again: AnyTrainConfig = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert override(config, {"model.labels": "3"}).model == TableConfig(labels=3, tokens=12)
    with pytest.raises(ConfigError, match="did you mean model.labels"):
        override(config, {"model.label": "3"})
    with pytest.raises(ConfigError, match=r"model has no field \['image_size'\]"):
        TrainConfig.from_dict(config.to_dict() | {"model": {"image_size": 3}})


def test_what_it_cannot_use_is_refused(tmp_path: Path) -> None:
    config = _config(tmp_path)
    for change, name in (
        ({"losses": LossWeights(flow=2.0)}, "losses.flow = 2.0"),
        ({"data": DataConfig(paths=("photos",))}, r"data.paths = \['photos'\]"),
        ({"time_shift": 2.5}, "time_shift = 2.5"),
        ({"init": "tiny"}, "init = 'tiny'"),
    ):
        with pytest.raises(ConfigError, match=f"the task 'table', .* ignores {name}"):
            replace(config, **change)
    with pytest.raises(ConfigError, match="trains a model of FlowMoConfig, got one of TableConfig"):
        replace(config, task="pretrain")
    with pytest.raises(ConfigError, match=r"metric must be one of \['accuracy'\] .*, got 'psnr'"):
        replace(config, validation=ValidationConfig(interval=1))
    with pytest.raises(ConfigError, match="'table' begins with no checkpoint, got 'tiny'"):
        start_from(config, "tiny")


def test_a_run_is_not_resumed_as_another_task(tmp_path: Path) -> None:
    config = _config(tmp_path)
    result, _ = _train(replace(config, steps=5))
    record = json.loads((result.checkpoint / "state.json").read_text())
    record["config"]["task"] = "prior"
    (result.checkpoint / "state.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="task 'prior' and cannot be resumed as 'table'"):
        _train(config, resume=True)
