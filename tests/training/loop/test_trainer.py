"""The training loop: exact resuming, what it writes, and when it stops."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from flowmo.model.config import FlowMoConfig, TransformerConfig
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.training.checkpointing.checkpoint import load_checkpoint
from flowmo.training.config import DataConfig, LossWeights, OptimizerConfig, TrainConfig
from flowmo.training.errors import DataError, DivergedError
from flowmo.training.loop.mesh import Mesh
from flowmo.training.loop.trainer import Trainer, TrainResult, train

# Python 3.12 warns when a process with threads forks; torch has threads, and its workers are forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

Build = Callable[..., TrainConfig]


def _train(config: TrainConfig, *, resume: bool = False) -> TrainResult:
    return train(config, resume=resume, console=Console(file=io.StringIO()))


def _state(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_checkpoint(result.checkpoint).tensors()


def _lines(config: TrainConfig) -> list[dict[str, float]]:
    text = (Path(config.output) / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def _assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    run_config: Build, tmp_path: Path, precision: str
) -> None:
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=4)
    straight = run_config(
        optimizer=optimizer, precision=precision, output=str(tmp_path / "straight")
    )
    parts = replace(straight, output=str(tmp_path / "parts"))
    first = _train(replace(parts, steps=3))
    assert first.step == 3
    # Other workers, another cache: the data is the same.
    data = replace(parts.data, workers=2)
    resumed = _train(replace(parts, data=data), resume=True)
    _assert_same(_state(_train(straight)), _state(resumed))
    assert resumed.step == 6
    assert resumed.samples == 24
    straight_log, resumed_log = _lines(straight), _lines(parts)
    assert straight_log[-1]["loss"] == resumed_log[-1]["loss"]


def test_resuming_a_continuous_model_restores_its_posterior_noise(
    run_config: Build, micro_model: FlowMoConfig, tmp_path: Path
) -> None:
    model = FlowMoConfig.from_dict(micro_model.to_dict() | {"quantizer": "gaussian"})
    straight = run_config(model=model, output=str(tmp_path / "straight"))
    parts = replace(straight, output=str(tmp_path / "parts"))
    _train(replace(parts, steps=3))
    _assert_same(_state(_train(straight)), _state(_train(parts, resume=True)))


def test_resuming_where_nothing_is_starts_afresh(run_config: Build) -> None:
    assert _train(run_config(), resume=True).step == 6


def test_resuming_a_finished_run_changes_nothing(run_config: Build) -> None:
    config = run_config()
    state = _state(_train(config))
    again = _train(config, resume=True)
    assert (again.step, again.loss, again.stopped) == (6, None, "finished")
    _assert_same(state, _state(again))


def test_an_existing_run_is_not_overwritten_by_mistake(run_config: Build) -> None:
    config = run_config()
    _train(config)
    with pytest.raises(ConfigError, match="holds a run with checkpoints up to step_000000006"):
        _train(config)


def test_a_checkpoint_of_another_model_is_refused_and_other_changes_are_named(
    run_config: Build, micro_model: FlowMoConfig
) -> None:
    config = run_config(steps=2)
    _train(config)
    deeper = replace(micro_model, decoder=TransformerConfig(width=32, depth=2, heads=2))
    with pytest.raises(
        CheckpointError, match=r"of another model; different are model\.decoder\.depth"
    ):
        _train(replace(config, model=deeper), resume=True)
    console = Console(file=io.StringIO(), width=200)
    renamed = replace(micro_model, name="other name")
    changed = replace(config, steps=3, model=renamed, ema_decay=0.5)
    assert train(changed, resume=True, console=console).step == 3
    assert "changed since then: ema_decay, model.name, steps" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_log_of_steps_that_no_checkpoint_holds_is_dropped(run_config: Build) -> None:
    config = run_config(steps=4)
    _train(config)
    with (Path(config.output) / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    _train(replace(config, steps=6), resume=True)
    assert [line["step"] for line in _lines(config)] == [2, 4, 6]
    assert _lines(config)[-1]["loss"] != 1.0


def test_a_small_network_learns_one_image(
    run_config: Build, micro_model: FlowMoConfig, tmp_path: Path
) -> None:
    y, x = np.mgrid[:16, :16]
    pixels = np.stack([16 * y, 16 * x, 255 - 16 * y], axis=-1).astype(np.uint8)
    # A velocity holds the noise of a patch, so the width must exceed the 48 numbers of one.
    block = TransformerConfig(width=64, depth=1, heads=2)
    model = replace(micro_model, image_size=16, patch_size=4, encoder=block, decoder=block)
    (tmp_path / "one").mkdir()
    Image.fromarray(pixels).save(tmp_path / "one" / "image.png")
    config = run_config(
        model=model,
        data=DataConfig(paths=(str(tmp_path / "one"),), horizontal_flip=False, workers=0),
        optimizer=OptimizerConfig(learning_rate=5e-3, base_width=64),
        steps=150,
        batch_size=16,
        log_interval=25,
        ema_decay=0.98,
        ema_ramp=True,
        sample_interval=150,
        sample_count=1,
    )
    result = _train(config)
    losses = [line["flow"] for line in _lines(config) if "flow" in line]
    assert losses[-1] < 0.35 * losses[0]
    assert result.sample_values["sample_psnr"] > 15  # a grey image has 10 dB


def test_accumulation_equals_a_bigger_batch(run_config: Build, tmp_path: Path) -> None:
    # The entropy of the mean code is a statistic of the micro-batch, so it is left out here.
    whole = run_config(losses=LossWeights(entropy=0.0), output=str(tmp_path / "whole"))
    parts = replace(whole, accumulation=4, output=str(tmp_path / "parts"))
    a, b = _state(_train(whole)), _state(_train(parts))
    # Weights of Adam's first steps hang on the sign of tiny gradients; the losses do not.
    for name in ("loss", "flow", "commitment", "grad_norm"):
        for one, other in zip(_lines(whole), _lines(parts), strict=True):
            assert one[name] == pytest.approx(other[name], rel=1e-3), name
    name = "optimizer.exp_avg.decoder.final_layer_img.linear.weight"
    torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-5)


def test_the_encoder_is_frozen_at_its_step_and_held_there(run_config: Build) -> None:
    before = _state(_train(run_config(steps=2, encoder_freeze_step=2)))
    config = run_config(steps=5, encoder_freeze_step=2)
    after = _state(_train(config, resume=True))
    encoder = [name for name in before if name.startswith("model.encoder")]
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    assert not torch.equal(
        before["model.decoder.img_in.weight"], after["model.decoder.img_in.weight"]
    )


def test_outputs_of_a_run(run_config: Build) -> None:
    config = run_config(
        sample_interval=3,
        checkpoint_interval=2,
        keep_checkpoints=2,
        sample_count=2,
        tensorboard=True,
    )
    result = _train(config)
    output = Path(config.output)
    assert TrainConfig.from_dict(json.loads((output / "config.json").read_text())) == config
    assert [p.name for p in sorted((output / "checkpoints").iterdir())] == [
        "step_000000004",
        "step_000000006",
    ]
    pictures = sorted((output / "samples").iterdir())
    assert [p.name for p in pictures] == ["step_000000003.png", "step_000000006.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (64, 64)
    assert list((output / "tensorboard").iterdir())
    scalars = {name for line in _lines(config) for name in line}
    assert scalars >= {
        "step", "loss", "flow", "entropy", "commitment", "codebook_entropy", "grad_norm",
        "learning_rate", "images_per_second", "step_ms", "data_ms", "sample_psnr",
    }  # fmt: skip
    assert result.stopped == "finished"
    assert result.sample_values == pytest.approx(
        {"sample_psnr": _lines(config)[-1]["sample_psnr"]}, rel=1e-4
    )


def test_the_export_holds_the_averaged_weights(run_config: Build) -> None:
    result = _train(run_config())
    state = _state(result)
    exported = FlowMo.from_pretrained(result.export)
    assert exported.config == run_config().model
    for name, parameter in exported.named_parameters():
        average = state[f"ema.{name}"]
        torch.testing.assert_close(parameter.detach().float(), average.bfloat16().float())
    assert not torch.equal(state["ema.decoder.img_in.weight"], state["model.decoder.img_in.weight"])


def test_the_time_budget_stops_and_counts_over_parts(run_config: Build) -> None:
    config = run_config(steps=10**6, max_minutes=0.5 / 60)
    result = _train(config)
    assert result.stopped == "budget"
    assert 0 < result.step < 10**6
    assert result.seconds >= 0.5
    again = _train(config, resume=True)
    assert (again.stopped, again.step) == ("budget", result.step)
    assert _train(replace(config, max_minutes=0.8 / 60), resume=True).step > result.step


def test_annealing_over_the_budget_ends_low(run_config: Build) -> None:
    optimizer = OptimizerConfig(schedule="linear", anneal_over_budget=True, learning_rate=1e-3)
    config = run_config(steps=10**6, max_minutes=1 / 60, optimizer=optimizer, log_interval=1)
    _train(config)
    rates = [line["learning_rate"] for line in _lines(config)]
    assert rates[0] > 0.9e-3
    assert rates[-1] < 0.3e-3
    assert all(a >= b for a, b in pairwise(rates))


def test_non_finite_gradients_skip_the_update_and_then_raise(run_config: Build) -> None:
    trainer = Trainer(
        run_config(steps=50),
        Mesh(device=torch.device("cpu")),
        resume=False,
        console=Console(file=io.StringIO()),
    )
    model = trainer.state.model
    assert isinstance(model, FlowMo)
    with torch.no_grad():
        model.decoder.final_layer_img.linear.bias[0] = float("inf")
    before = model.encoder.img_in.weight.detach().clone()
    with pytest.raises(DivergedError, match="not finite in 10 steps in a row"):
        trainer.run()
    assert torch.equal(model.encoder.img_in.weight, before)
    assert trainer.state.progress.skipped == 10
    assert torch.isfinite(trainer.state.ema.shadow["encoder.img_in.weight"]).all()


def test_corrupt_images_are_noted_once_and_limited(
    run_config: Build, pictures: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(3):
        (broken / f"{i}.png").write_bytes(b"?")
    data = DataConfig(paths=(str(pictures), str(broken)), workers=0, max_corrupt=3)
    console = Console(file=io.StringIO(), width=400)
    result = train(run_config(data=data, steps=12), console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("unreadable image skipped") == 3
    record = json.loads((result.checkpoint / "state.json").read_text())
    assert sorted(record["progress"]["unreadable"]) == [10, 11, 12]
    strict = run_config(
        data=replace(data, max_corrupt=2), steps=12, output=str(tmp_path / "strict")
    )
    with pytest.raises(DataError, match="3 unreadable images, more than"):
        _train(strict)


def test_an_unknown_device_is_explained(run_config: Build) -> None:
    with pytest.raises(ConfigError, match="device 'warp' cannot be used here"):
        _train(run_config(device="warp"))


# The compiler imports parts of torch that warn about torch.jit.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_cache_and_a_compiled_step_train_like_the_plain_ones(
    run_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Graphs are captured and differentiated as ever; only C++ is not generated, for speed.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain = run_config(steps=3, log_interval=1, output=str(tmp_path / "plain"))
    data = replace(plain.data, cache="memory")
    quick = replace(plain, compile=True, data=data, output=str(tmp_path / "quick"))
    _train(plain)
    _train(quick)
    for one, other in zip(_lines(plain), _lines(quick), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
