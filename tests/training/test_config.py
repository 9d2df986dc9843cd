"""Run configs: what they accept, and that recipes say what the paper says."""

import json
from collections.abc import Callable

import pytest

from flowmo.model.config import preset
from flowmo.model.errors import ConfigError
from flowmo.training.config import DataConfig, LossWeights, OptimizerConfig, TrainConfig
from flowmo.training.recipes import RECIPES, recipe


def _run(**changes: object) -> TrainConfig:
    values: dict[str, object] = {"model": preset("tiny"), "steps": 1}
    return TrainConfig(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_survives_json(name: str) -> None:
    config = recipe(name)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("name", "model", "epochs"),
    [
        ("fewer-params", "small", 40),
        ("lo", "lo", 130),
        ("hi", "hi", 80),
        ("continuous", "continuous-lo", 130),
    ],
)
def test_published_recipes_are_table_1(name: str, model: str, epochs: int) -> None:
    config = recipe(name)
    assert config.model == preset(model)
    assert config.steps * 128 / 1_281_167 == pytest.approx(epochs, abs=1e-3)
    assert config.batch_size == 128
    assert config.optimizer.learning_rate == 1e-4
    assert config.optimizer.betas == (0.9, 0.95)
    assert config.optimizer.weight_decay == 0
    assert config.optimizer.schedule == "constant"
    assert config.optimizer.fix_weight_norm
    assert config.ema_decay == 0.9999
    assert not config.ema_ramp
    assert config.losses.entropy == 0.0025
    assert config.losses.commitment == 0.000625
    assert config.losses.perceptual == 0.1
    assert config.perceptual.network == "lpips-vgg"
    assert config.condition_dropout == 0.1
    assert config.uniform_share == 0.1
    assert config.encoder_freeze_step == 200_000
    assert config.precision == "bf16"


def test_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'huge'.*continuous.*tiny-demo"):
        recipe("huge")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surplus": 1}, r"no field \['surplus'\]"),
        ({"steps": "10"}, "steps must be of type int, got '10'"),
        ({"steps": True}, "steps must be of type int, got True"),
        ({"data": {"crop": "left"}}, "data.crop must be one of"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas must have 2 values"),
        ({"optimizer": {"speed": 1}}, r"optimizer has no field \['speed'\]"),
        ({"data": []}, "data must be a mapping"),
    ],
)
def test_reading_is_strict(change: dict[str, object], message: str) -> None:
    data = recipe("fewer-params").to_dict() | change
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(data)


def test_missing_fields_are_named() -> None:
    data = recipe("fewer-params").to_dict()
    del data["steps"], data["model"]
    with pytest.raises(ConfigError, match=r"lacks the fields \['model', 'steps'\]"):
        TrainConfig.from_dict(data)


@pytest.mark.parametrize(
    ("build", "values", "message"),
    [
        (DataConfig, {"min_crop_scale": 0.0}, "min_crop_scale must lie in"),
        (DataConfig, {"crop": "middle"}, "crop must be one of"),
        (DataConfig, {"workers": -1}, "workers must be a number of at least 0"),
        (DataConfig, {"cache_limit_gib": 0}, "cache_limit_gib must be positive"),
        (OptimizerConfig, {"learning_rate": 0}, "learning_rate must be positive"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate must be positive"),
        (OptimizerConfig, {"betas": (0.9, 1.0)}, "betas must be two numbers"),
        (OptimizerConfig, {"grad_clip": 0.0}, "grad_clip must be positive or none"),
        (OptimizerConfig, {"decay_from": 1.0}, "decay_from must lie in"),
        (LossWeights, {"flow": -1.0}, "flow must be a number of at least 0"),
        (_run, {"steps": 0}, "steps must be a number of at least 1"),
        (_run, {"batch_size": 10, "accumulation": 3}, "accumulation 3 must divide batch_size 10"),
        (_run, {"condition_dropout": 1.5}, "condition_dropout must lie in"),
        (_run, {"max_minutes": 0}, "max_minutes must be positive or none"),
        (_run, {"optimizer": OptimizerConfig(anneal_over_budget=True)}, "needs max_minutes"),
        (_run, {"seed": -1}, "seed must lie in"),
    ],
)
def test_values_out_of_range_are_refused(
    build: Callable[..., object], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**values)
