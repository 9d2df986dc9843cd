"""Tasks by name, and the options that each of them would ignore."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.training.config import (
    DistillConfig,
    LossWeights,
    PerceptualConfig,
    PostTrainConfig,
    TrainConfig,
    ValidationConfig,
)
from flowmo.training.recipes import RECIPES, recipe
from flowmo.training.tasks.pretrain import PretrainTask
from flowmo.training.tasks.registry import find_task, register_task, task_names

Build = Callable[..., TrainConfig]

LPIPS = PerceptualConfig(network="lpips-vgg", weights="random")


@pytest.fixture
def build(run_config: Build, micro_model: FlowMoConfig) -> Build:
    """A config of a task that can be; keyword arguments replace fields."""
    student = replace(micro_model, sampler=SamplerConfig(steps=1, guidance=1.0))
    values: dict[str, dict[str, Any]] = {
        "pretrain": {},
        "post-train": {"init": "x", "encoder_freeze_step": 0},
        "distill": {"init": "x", "encoder_freeze_step": 0, "model": student},
    }

    def built(task: str, **changes: object) -> TrainConfig:
        return run_config(task=task, **(values[task] | changes))

    return built


def test_tasks_have_names_and_classes() -> None:
    assert {"pretrain", "post-train", "distill"} <= set(task_names())
    assert find_task("pretrain") is PretrainTask
    assert register_task(PretrainTask) is PretrainTask  # the same again is no mistake
    with pytest.raises(ConfigError, match="task must be one of .*'distill'.*, got '1a'"):
        find_task("1a")

    class Another(PretrainTask):
        pass

    with pytest.raises(ConfigError, match="there is a task 'pretrain' already"):
        register_task(Another)


@pytest.mark.parametrize(
    ("task", "changes", "ignored"),
    [
        ("pretrain", {"losses": LossWeights(sample_mse=1.0)}, "losses.sample_mse = 1.0"),
        ("pretrain", {"losses": LossWeights(teacher_l1=0.5)}, "losses.teacher_l1 = 0.5"),
        ("pretrain", {"losses": LossWeights(kl=1.0)}, "losses.kl = 1.0"),
        ("pretrain", {"losses": LossWeights(perceptual=1.0)}, "losses.perceptual = 1.0"),
        (
            "pretrain",
            {"perceptual": LPIPS, "losses": LossWeights(perceptual=0.0)},
            "perceptual.network = 'lpips-vgg'",
        ),
        (
            "pretrain",
            {"perceptual": PerceptualConfig(weights="vgg.pth")},
            "perceptual.weights = 'vgg.pth'",
        ),
        ("pretrain", {"post_train": PostTrainConfig(steps=4)}, "post_train.steps = 4"),
        ("pretrain", {"distill": DistillConfig(teacher="t")}, "distill.teacher = 't'"),
        (
            "pretrain",
            {"validation": ValidationConfig(lpips_weights="vgg.pth")},
            "validation.lpips_weights = 'vgg.pth'",
        ),
        ("post-train", {"losses": LossWeights(entropy=1.0)}, "losses.entropy = 1.0"),
        ("post-train", {"losses": LossWeights(perceptual=1.0)}, "losses.perceptual = 1.0"),
        (
            "post-train",
            {"losses": LossWeights(sample_perceptual=1.0)},
            "losses.sample_perceptual = 1.0",
        ),
        ("post-train", {"distill": DistillConfig(cache="c")}, "distill.cache = 'c'"),
        ("distill", {"losses": LossWeights(commitment=1.0)}, "losses.commitment = 1.0"),
        ("distill", {"losses": LossWeights(perceptual=1.0)}, "losses.perceptual = 1.0"),
        ("distill", {"post_train": PostTrainConfig(steps=4)}, "post_train.steps = 4"),
        ("distill", {"distill": DistillConfig(cache_epochs=2)}, "distill.cache_epochs = 2"),
    ],
)
def test_an_option_that_the_task_ignores_is_refused(
    build: Build, task: str, changes: dict[str, object], ignored: str
) -> None:
    build(task)
    with pytest.raises(ConfigError, match=f"the task '{task}', .* ignores {ignored}.*Leave"):
        build(task, **changes)


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("pretrain", {"perceptual": LPIPS, "losses": LossWeights(perceptual=1.0)}),
        ("pretrain", {"losses": LossWeights(entropy=0.5, commitment=0.5)}),
        ("pretrain", {"losses": LossWeights(teacher_l1=0.0)}),  # there is no term to be missed
        (
            "post-train",
            {"encoder_freeze_step": None, "losses": LossWeights(entropy=1.0)},
        ),
        ("post-train", {"perceptual": LPIPS, "losses": LossWeights(sample_perceptual=1.0)}),
        ("post-train", {"post_train": PostTrainConfig(steps=2, recompute=False)}),
        ("distill", {"distill": DistillConfig(cache="c", cache_epochs=2, teacher_steps=3)}),
        ("distill", {"post_train": PostTrainConfig(recompute=False)}),
        (
            "distill",
            {
                "perceptual": LPIPS,
                "losses": LossWeights(teacher_perceptual=1.0, sample_perceptual=1.0),
            },
        ),
    ],
)
def test_an_option_that_the_task_reads_is_taken(
    build: Build, task: str, changes: dict[str, object]
) -> None:
    config = build(task, **changes)
    assert all(getattr(config, name) == value for name, value in changes.items())


def test_a_gaussian_latent_has_its_own_loss(build: Build, micro_model: FlowMoConfig) -> None:
    continuous = replace(micro_model, quantizer="gaussian")
    assert build("pretrain", model=continuous, losses=LossWeights(kl=1.0)).losses.kl == 1.0
    with pytest.raises(ConfigError, match=r"ignores losses\.entropy = 1\.0; of losses it reads"):
        build("pretrain", model=continuous, losses=LossWeights(entropy=1.0))


def test_every_recipe_sets_only_what_it_uses() -> None:
    for name in RECIPES:
        assert recipe(name).task in task_names()


def test_the_recipe_finetune_begins_with_the_shipped_model() -> None:
    from flowmo.model.checkpoint import inspect_checkpoint
    from flowmo.model.hub import resolve_checkpoint

    config = recipe("finetune")
    assert config.init == "tiny"
    assert config.model == inspect_checkpoint(resolve_checkpoint("tiny")).config
