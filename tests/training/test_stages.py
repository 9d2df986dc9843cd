"""Recipes of several stages: one command, in order, and on from wherever it was stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flowmo.cli import app
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.training import TrainConfig, train
from flowmo.training.recipes import STAGED_RECIPES
from flowmo.training.stages import STAGES_FILE, StageResult, stage_configs, train_stages

_TINY = (
    "model.image_size=32", "model.code_length=4",
    "model.encoder.depth=1", "model.encoder.width=32", "model.encoder.heads=2",
    "model.decoder.depth=1", "model.decoder.width=32", "model.decoder.heads=2",
    "batch_size=2", "steps=3", "log_interval=1", "sample_interval=0", "checkpoint_interval=0",
    "precision=float32", "tensorboard=false", "device=cpu",
    "tiny-sharp:perceptual.weights=random", "tiny-sharp:perceptual.window=32",
)  # fmt: skip
_STAGES = tuple(replace(stage, crops=16) for stage in STAGED_RECIPES["tiny-demo"])


class KilledError(Exception):
    """Stands for an end at which nothing is written."""


def _configs(pictures: Path, out: Path, *more: str) -> list[TrainConfig]:
    made = stage_configs("tiny-demo", [*_TINY, *more], data=[str(pictures)], out=out)
    return list(made.values())


def _run(config: TrainConfig, *, minutes: float | None = None) -> StageResult:
    ended = train(config, resume=True, call_minutes=minutes)
    return StageResult(
        recipe=Path(config.output).name,
        stopped=ended.stopped,
        step=ended.step,
        seconds=ended.seconds,
        model=ended.export,
    )


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all stages that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train_stages(_STAGES, _configs(pictures, out), _run)
    return out


def _log(run: Path, name: str) -> list[dict[str, float]]:
    """The lines of a stage's log without what the clock says."""
    lines = (run / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
    timed = ("images_per_second", "step_ms", "data_ms", "data_share", "learning_rate")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def test_each_stage_goes_on_with_what_the_one_before_gave(whole: Path) -> None:
    first, grown, last = (
        FlowMo.from_pretrained(whole / name)
        for name in ("tiny-pretrain/export", "grown", "tiny-sharp/export")
    )
    assert (first.config.prediction, first.config.head) == ("velocity", ())
    assert last.config == grown.config
    assert (last.config.prediction, last.config.head) == ("image", (64, 32, 16))
    assert last.config.encoder == first.config.encoder
    begun = TrainConfig.from_dict(json.loads((whole / "tiny-sharp/config.json").read_text()))
    assert begun.init == str(whole / "grown")


def test_the_cost_of_each_stage_is_written_down(whole: Path) -> None:
    stages = json.loads((whole / STAGES_FILE).read_text(encoding="utf-8"))
    assert list(stages) == ["tiny-pretrain", "tiny-sharp"]
    for stage in stages.values():
        assert (stage["stopped"], stage["steps"], stage["samples"]) == ("finished", 3, 6)
        assert stage["hours"] > 0
    # The head and the perceptual network come on top.
    assert stages["tiny-sharp"]["petaflop"] > 2 * stages["tiny-pretrain"]["petaflop"] > 0


def test_a_stop_in_the_second_stage_is_gone_on_with_there(
    whole: Path, pictures: Path, tmp_path: Path
) -> None:
    configs = _configs(pictures, tmp_path)

    def stopping(config: TrainConfig) -> StageResult:
        if Path(config.output).name == "tiny-pretrain":
            return _run(config)
        _run(replace(config, steps=1))
        return _run(config, minutes=0)

    results = train_stages(_STAGES, configs, stopping)
    assert [(result.stopped, result.step) for result in results] == [
        ("finished", 3),
        ("interrupted", 1),
    ]
    log = (tmp_path / "tiny-pretrain/log.jsonl").read_bytes()
    grown = (tmp_path / "grown/model.safetensors").stat().st_mtime_ns
    results = train_stages(_STAGES, configs, _run, resume=True)
    assert [result.step for result in results] == [3, 3]
    assert (tmp_path / "tiny-pretrain/log.jsonl").read_bytes() == log
    assert (tmp_path / "grown/model.safetensors").stat().st_mtime_ns == grown
    assert _log(tmp_path, "tiny-sharp") == _log(whole, "tiny-sharp")


def test_a_kill_between_the_stages_costs_nothing(
    whole: Path, pictures: Path, tmp_path: Path
) -> None:
    configs = _configs(pictures, tmp_path)

    def killed(config: TrainConfig) -> StageResult:
        if Path(config.output).name == "tiny-sharp":
            raise KilledError
        return _run(config)

    with pytest.raises(KilledError):
        train_stages(_STAGES, configs, killed)
    # As if it had come while the weights were written: what is not whole is made again.
    (tmp_path / "grown/config.json").unlink()
    (tmp_path / "grown/model.safetensors").write_bytes(b"half of it")
    train_stages(_STAGES, configs, _run, resume=True)
    assert _log(tmp_path, "tiny-sharp") == _log(whole, "tiny-sharp")


def test_what_would_stop_a_later_stage_is_said_before_the_first(
    pictures: Path, tmp_path: Path
) -> None:
    def never(config: TrainConfig) -> StageResult:
        raise AssertionError(config.output)

    missing = tmp_path / "nowhere" / "vgg-edge.safetensors"
    configs = _configs(pictures, tmp_path, f"tiny-sharp:perceptual.weights={missing}")
    with pytest.raises(ConfigError, match=r"tiny-sharp needs .*vgg-edge\.safetensors.*fetch"):
        train_stages(_STAGES, configs, never)
    (tmp_path / "tiny-sharp/checkpoints/step_000000003").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"tiny-sharp holds a run .*--resume"):
        train_stages(_STAGES, _configs(pictures, tmp_path), never)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sharp:steps=1", r"names no stage of tiny-demo: they are tiny-pretrain, tiny-sharp"),
        ("tiny-sharp:model.head=8,8", "would change the model that tiny-sharp goes on with"),
        ("tiny-sharp:stepz=1", "did you mean steps"),
        ("perceptual.blocks=2", "ignores perceptual.blocks"),
    ],
)
def test_a_change_must_mean_something_to_its_stage(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage_configs("tiny-demo", [assignment])


def test_the_command_runs_all_stages_and_refuses_what_only_one_can_take(
    pictures: Path, tmp_path: Path
) -> None:
    def flowmo(*arguments: str) -> Result:
        sets = [text for one in (*_TINY, "steps=1") for text in ("-s", one)]
        return CliRunner().invoke(app, ["train", "tiny-demo", *arguments, *sets])

    listed = json.loads(flowmo("--list-fields").stdout)
    assert {name: fields["task"] for name, fields in listed.items()} == {
        "tiny-pretrain": "pretrain",
        "tiny-sharp": "pretrain",
    }
    refused = flowmo("--init", "tiny")
    assert refused.exit_code == 1
    assert "give --init to one of its stages" in refused.stderr
    again = flowmo("--data", str(pictures), "--out", str(tmp_path / "run"))
    assert again.exit_code == 0, again.output
    assert again.stdout.count("finished after 1 steps") == 2
    assert f"model folder: {tmp_path / 'run/tiny-sharp/export'}" in again.stdout
