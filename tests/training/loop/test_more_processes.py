"""Numbers of processes that divide nothing, hybrid shards, and a teacher's cache between them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from flowmo.training.checkpointing.checkpoint import dealt
from flowmo.training.config import OptimizerConfig, TrainConfig
from tests.training.processes import Processes, assert_near, assert_same
from tests.training.students import quiet

Build = Callable[..., TrainConfig]
# With a large eps Adam's step is a smooth function of the gradient: rounding stays small.
_SMOOTH = OptimizerConfig(learning_rate=1e-3, eps=1e-3, initial_gate=0.5)


def test_three_processes_share_what_three_does_not_divide(
    run_config: Build, tmp_path: Path
) -> None:
    """Sums over three processes depend on their order, which a stop must not change."""
    base = run_config(optimizer=_SMOOTH, batch_size=6, steps=4, log_interval=1)

    def named(name: str, **changes: object) -> TrainConfig:
        return replace(base, output=str(tmp_path / name), **changes)  # type: ignore[arg-type]

    alone, shards = named("alone", accumulation=3), named("fsdp", parallel="fsdp")
    straight, parts = named("straight"), named("parts")
    quiet(alone)
    group = Processes(
        [shards, straight, replace(parts, steps=2), parts], tmp_path / "group", size=3
    )
    assert group.finish() == ["finished 4", "finished 4", "finished 2", "finished 4"]
    for config in (shards, straight):
        assert_near(config, alone)
    assert_same(parts, straight)


def test_hybrid_shards_and_a_cache_that_some_processes_need_to_fill(
    run_config: Build, tmp_path: Path
) -> None:
    base = run_config(optimizer=_SMOOTH, batch_size=8, steps=3, log_interval=1)
    alone = replace(base, accumulation=4, output=str(tmp_path / "alone"))
    quiet(alone)
    hybrid = replace(base, parallel="fsdp", shard_size=2, output=str(tmp_path / "hybrid"))
    guided = replace(base.model, sampler=replace(base.model.sampler, guidance=1.0))
    taught = replace(
        base,
        task="distill",
        init=str(tmp_path / "alone/export"),
        model=guided,
        encoder_freeze_step=0,
        distill=replace(base.distill, teacher_steps=2, cache=str(tmp_path / "cache")),
        steps=1,
    )
    # The first half of what the four processes will see; the others find nothing.
    quiet(replace(taught, batch_size=4, output=str(tmp_path / "some")))
    sharded = replace(taught, parallel="fsdp", output=str(tmp_path / "sharded"))
    group = Processes([hybrid, sharded], tmp_path / "group", size=4)
    assert group.finish() == ["finished 3", "finished 1"]
    expected = replace(taught, accumulation=4, output=str(tmp_path / "whole"))
    quiet(expected)
    assert_near(sharded, expected)
    assert_near(hybrid, alone)
    # What the shards have written, one process goes on from.
    quiet(replace(hybrid, parallel="auto", shard_size=None, accumulation=4, steps=4), resume=True)
    quiet(replace(alone, steps=4), resume=True)
    assert_near(hybrid, alone)


def test_whole_copies_are_dealt_out_once_and_evenly() -> None:
    tensors = {f"{i:02d}": torch.zeros(i * 100) for i in range(40)}
    parts = [dealt(tensors, rank, 3) for rank in range(3)]
    assert sorted(name for part in parts for name in part) == sorted(tensors)
    sizes = [sum(tensor.nbytes for tensor in part.values()) for part in parts]
    assert max(sizes) - min(sizes) <= max(tensor.nbytes for tensor in tensors.values())
