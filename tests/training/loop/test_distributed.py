"""Several processes: the same numbers as one, whatever becomes of them (gloo, on the CPU)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.training.checkpointing.checkpoint import checkpoint_folders, load_checkpoint
from flowmo.training.config import DataConfig, OptimizerConfig, TrainConfig, ValidationConfig
from flowmo.training.data.batches import PositionBatches
from flowmo.training.loop.mesh import Mesh, open_mesh
from flowmo.training.loop.trainer import Trainer, train
from tests.training.processes import Processes, assert_near, assert_same, log_of
from tests.training.students import quiet
from tests.training.tokens import prior_run, write_tokens

Build = Callable[..., TrainConfig]


def test_any_number_of_processes_gives_the_numbers_of_one(
    run_config: Build, tmp_path: Path
) -> None:
    """Copies and shards, with accumulation, held norms, EMA, a freezing encoder, validation."""
    # With a large eps Adam's step is a smooth function of the gradient: rounding stays small.
    optimizer = OptimizerConfig(learning_rate=1e-3, eps=1e-3, initial_gate=0.5, grad_clip=0.5)
    base = run_config(
        optimizer=optimizer,
        batch_size=8,
        accumulation=2,
        steps=6,
        log_interval=1,
        encoder_freeze_step=4,
        validation=ValidationConfig(interval=3),
        sample_interval=3,
        sample_count=2,
    )

    def named(name: str, **changes: object) -> TrainConfig:
        return replace(base, output=str(tmp_path / name), **changes)  # type: ignore[arg-type]

    alone = named("alone", accumulation=4)
    quiet(alone)
    copies, shards = named("ddp"), named("fsdp", parallel="fsdp")
    # Begun with shards, continued by one process; begun by one, continued with shards.
    first_shards, first_alone = (
        named("there", parallel="fsdp", steps=3),
        named("back", accumulation=4, steps=3),
    )
    quiet(first_alone)
    group = Processes(
        [copies, shards, first_shards, named("back", parallel="fsdp")], tmp_path / "group"
    )
    assert group.finish() == ["finished 6", "finished 6", "finished 3", "finished 6"]
    quiet(named("there", accumulation=4), resume=True)
    for config in (copies, shards, named("there"), named("back")):
        assert_near(config, alone)
        assert sorted(path.name for path in (Path(config.output) / "samples").iterdir()) == [
            "step_000000003.png",
            "step_000000006.png",
        ]
        exported, expected = (
            FlowMo.from_pretrained(Path(c.output) / "best").state_dict() for c in (config, alone)
        )
        for name, tensor in exported.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=1e-4)


def test_later_stages_give_the_same_numbers_in_shards(run_config: Build, tmp_path: Path) -> None:
    """Recomputed chains, a teacher, a prior, and bfloat16 shards that at least run."""
    first = run_config(output=str(tmp_path / "first"), steps=1)
    quiet(first)
    base = replace(
        first,
        init=str(tmp_path / "first/export"),
        encoder_freeze_step=0,
        steps=2,
        batch_size=4,
        log_interval=1,
        optimizer=replace(first.optimizer, eps=1e-3),
    )
    guided = replace(base.model, sampler=replace(base.model.sampler, guidance=1.0))
    runs = []
    for task, changes in (
        ("post-train", {"post_train": replace(base.post_train, steps=2)}),
        ("distill", {"model": guided, "distill": replace(base.distill, teacher_steps=3)}),
    ):
        weights = replace(base.losses, sample_mse=1.0)
        output = str(tmp_path / task)
        runs.append(replace(base, task=task, output=output, losses=weights, **changes))
    sharded = [replace(run, output=f"{run.output}-sharded", parallel="fsdp") for run in runs]
    low = replace(sharded[0], output=str(tmp_path / "bf16"), precision="bf16")
    ids = np.random.default_rng(0).integers(0, 4, (40, 2))
    tokens = write_tokens(tmp_path / "tokens", ids, np.arange(40) % 2)
    prior = prior_run(
        tokens,
        tmp_path / "prior",
        steps=2,
        log_interval=1,
        optimizer=replace(base.optimizer, weight_decay=0.1),
        validation=ValidationConfig(interval=2, count=4, metric="cross_entropy"),
    )
    copies, shards = (
        replace(prior, output=f"{prior.output}-{parallel}", parallel=parallel)
        for parallel in ("ddp", "fsdp")
    )
    group = Processes([*sharded, copies, shards, low], tmp_path / "group")
    assert group.finish() == ["finished 2"] * 5
    for alone, several in (
        (runs[0], sharded[:1]),
        (runs[1], sharded[1:]),
        (prior, [copies, shards]),
    ):
        quiet(replace(alone, accumulation=2))
        for each in several:
            assert_near(each, alone)
    for line, expected in zip(log_of(low), log_of(runs[0]), strict=True):
        assert line["flow"] == pytest.approx(expected["flow"], rel=0.05)


def test_killed_at_any_instant_the_loss_goes_on_identically(
    run_config: Build, pictures: Path, tmp_path: Path
) -> None:
    """A checkpoint after every step, so that kills hit their writing."""
    config = run_config(
        # Processes that decode live on for seconds when the one that they belong to is killed.
        data=DataConfig(paths=(str(pictures),), workers=1),
        steps=14,
        log_interval=1,
        checkpoint_interval=1,
        keep_checkpoints=3,
        output=str(tmp_path / "killed"),
    )
    group = Processes([config], tmp_path / "a")
    group.wait_for_step(config.output, 7)
    group.kill(1)
    # The other one cannot go on alone, and must not wait for ever.
    assert group.wait(60)[0] not in (0, None)
    # Now the one that writes, in the middle of it.
    config = replace(config, data=replace(config.data, workers=0))
    statuses = Processes([config], tmp_path / "b", fatal=67).wait(60)
    assert statuses[0] == -signal.SIGKILL
    assert statuses[1] > 0
    group = Processes([config], tmp_path / "c")
    assert group.finish() == ["finished 14"]
    straight = replace(config, output=str(tmp_path / "straight"))
    assert Processes([straight], tmp_path / "d").finish() == ["finished 14"]
    assert_same(config, straight)
    names = sorted(path.name for path in (Path(config.output) / "checkpoints").iterdir())
    assert names == [f"step_{step:09d}" for step in (12, 13, 14)]


def test_a_signal_to_one_process_stops_all_at_the_same_step(
    run_config: Build, tmp_path: Path
) -> None:
    config = run_config(steps=10_000, log_interval=1, output=str(tmp_path / "run"))
    group = Processes([config], tmp_path / "group")
    group.wait_for_step(config.output, 3)
    group.all[1].send_signal(signal.SIGTERM)
    (line,) = group.finish()
    stopped, step = line.split()
    assert stopped == "interrupted"
    assert load_checkpoint(checkpoint_folders(Path(config.output))[-1]).progress["step"] == int(
        step
    )


def test_torchrun_starts_the_command(pictures: Path, tmp_path: Path) -> None:
    small = (
        "model.image_size=16", "model.patch_size=4", "model.code_length=4", "batch_size=4",
        "model.encoder.width=32", "model.encoder.heads=2", "model.encoder.depth=1",
        "model.decoder.width=32", "model.decoder.heads=2", "model.decoder.depth=1",
        "model.sampler.steps=2", "steps=2", "tensorboard=false", "device=cpu", "data.workers=0",
    )  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "flowmo", "train", "tiny-pretrain", "-d", str(pictures)]
    command += ["-o", str(tmp_path / "run"), *(x for s in small for x in ("-s", s))]
    result = subprocess.run(
        command,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ["PYTHONPATH"]])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("finished after 2 steps") == 1
    files = list(checkpoint_folders(tmp_path / "run")[-1].glob("shard-*"))
    assert len(files) == 2


def test_parts_of_a_batch_are_the_batch() -> None:
    options = {"start": 16, "stop": 40, "batch_size": 8, "period": 30}
    whole = list(PositionBatches(**options))  # type: ignore[arg-type]
    parts = [list(PositionBatches(**options, part=(i, 4))) for i in range(4)]
    assert [[p for part in step for p in part] for step in zip(*parts, strict=True)] == whole


def test_what_does_not_fit_several_processes_is_told(
    run_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(ConfigError, match="parallel=ddp needs several processes"),
        open_mesh("cpu", "ddp"),
    ):
        pass
    several = Mesh(device=torch.device("cpu"), size=3, parallel="ddp")
    with pytest.raises(ConfigError, match="must divide batch_size, got 3 x 2 and 8"):
        Trainer(run_config(batch_size=8, accumulation=2), several, resume=False, console=Console())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node"):
        train(run_config())


def test_one_process_agrees_with_itself() -> None:
    mesh = Mesh(device=torch.device("cpu"))
    assert mesh.agree(True, False, seconds=3.5) == ((True, False), 3.5)
    assert mesh.union([3, 1]) == [3, 1]


@pytest.mark.parametrize(("size", "count"), [(1, 3), (2, 5), (3, 2), (4, 8)])
def test_processes_share_held_out_pictures_evenly(size: int, count: int) -> None:
    """Sharded weights are gathered by all together, so none may have a forward less."""
    device = torch.device("cpu")
    shares = [Mesh(rank=rank, size=size, device=device).share(count) for rank in range(size)]
    assert {number for share in shares for number in share} == set(range(count))
    assert {len(share) for share in shares} == {-(-count // size)}
